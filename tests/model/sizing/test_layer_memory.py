"""The formulas of layers against the operations themselves: bytes alive at once while they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import ConfigurationError
from model.sizing.layer_memory import Execution, feed_forward_bytes, mixer_bytes
from tests.support.layer_memory import ALL_MIXERS, layer_config, measured_feed_forward, measured_mixer

_REPOSITORY = Path(__file__).parents[3]
_CHILD_SECONDS = 300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ALL_MIXERS)
def test_a_mixer_takes_what_its_formula_says(kind: str, dtype: torch.dtype) -> None:
    config = layer_config(kind)
    expected = mixer_bytes(kind, config, Execution(dtype.itemsize, fused=False))
    kept, peak = measured_mixer(kind, config, dtype)
    # The kernel on a GPU sums the queries' gradient in float32, the one on a CPU does not.
    summing = 4 * config.width if kind == "attention" and dtype == torch.bfloat16 else 0
    assert kept == pytest.approx(expected.kept, rel=0.02)
    assert peak == pytest.approx(expected.peak - summing, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("hgrn2", {"hgrn2_head_dim": 128}),
        ("hgrn2", {"short_convolution": False}),
        ("gated_deltanet", {"gated_deltanet_head_dim": 64}),
        ("attention", {"key_value_heads": 4}),
    ],
)
def test_a_mixer_of_another_shape(kind: str, fields: dict[str, object]) -> None:
    config = layer_config(kind).changed(**fields)
    expected = mixer_bytes(kind, config, Execution(2, fused=False))
    kept, peak = measured_mixer(kind, config, torch.bfloat16)
    summing = 4 * config.width if kind == "attention" else 0
    assert kept == pytest.approx(expected.kept, rel=0.03)
    assert peak == pytest.approx(expected.peak - summing, rel=0.08)


def test_the_feed_forward_takes_what_its_formula_says() -> None:
    config = layer_config("attention")
    expected = feed_forward_bytes(config, Execution(2, fused=True))
    assert measured_feed_forward(config, torch.bfloat16) == pytest.approx((expected.kept, expected.peak), rel=0.01)


@pytest.mark.slow
def test_kernels_of_fla_take_what_the_formulas_say() -> None:
    """fla's own code around kernels that compute nothing, for what it allocates; needs the interpreter's process."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.layer_memory"],
        env=environment, cwd=_REPOSITORY, capture_output=True, text=True, timeout=_CHILD_SECONDS,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert {row["kind"] for row in found} == {"hgrn2", "gated_deltanet"}
    for row in found:
        config = layer_config(row["kind"]).changed(**row["fields"])
        expected = mixer_bytes(row["kind"], config, Execution(2, fused=True))
        assert row["kept"] == pytest.approx(expected.kept, rel=0.02), row
        assert row["peak"] == pytest.approx(expected.peak, rel=0.03), row


def test_rows_over_several_ranks_repeat_key_value_heads_where_needed() -> None:
    config = layer_config("attention")  # one key/value head
    alone, shared = (mixer_bytes("attention", config, Execution(2, True, size)) for size in (1, 4))
    repeated = 2 * 2 * 3 * config.head_dim  # keys and values of three more heads
    received = 2 * config.width
    assert shared.kept - alone.kept == repeated + received


def test_an_unknown_mixer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="mixer 'rwkv' is not known"):
        mixer_bytes("rwkv", layer_config("hgrn2"), Execution(2, fused=True))
