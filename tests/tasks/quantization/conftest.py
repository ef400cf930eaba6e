from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import Artifacts, in_own_store, inputs_of, tokens_in

from infra.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def artifacts_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifacts]:
    """A store with a tiny corpus, a tiny model of the family and its evaluation; each family is trained once."""
    root = tmp_path_factory.mktemp("store")
    store = ArtifactStore.open(str(root / "store"), root / "cache")
    tokens = tokens_in(store)
    known: dict[str, Artifacts] = {}

    def make(family: str) -> Artifacts:
        if family not in known:
            known[family] = store, inputs_of(store, tokens, family)
        return known[family]

    return make


@pytest.fixture
def artifacts(artifacts_of: Callable[[str], Artifacts], tmp_path: Path) -> Artifacts:
    """The HGRN-2 model's, in a store of the test's own."""
    return in_own_store(artifacts_of("hgrn2"), tmp_path)
