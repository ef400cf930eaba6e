"""The builds of llama.cpp that tests can run in."""

from __future__ import annotations

import pytest

from model.llama_cpp import Build, available_builds

#: The build that runs each family of trained models.
FAMILY_BUILDS = {"hgrn2": Build.PATCHED, "mamba2": Build.STOCK, "gated_deltanet": Build.STOCK}
#: What its architecture asks of a family beyond the description the families share.
FAMILY_CHANGES: dict[str, dict[str, object]] = {
    "hgrn2": {},
    "mamba2": {},
    "gated_deltanet": {
        "query_key_norm": True, "gated_deltanet_value_expansion": 1, "gated_deltanet_heads": 8,
    },
}  # fmt: skip


def require_build(build: Build) -> None:
    """Skip the test where the patched build is missing; the stock one is a dependency and must be there."""
    if build is Build.PATCHED and build not in available_builds():
        pytest.skip("llama.cpp with the hgrn2 architecture is not built on this machine: `make llama` builds it")
