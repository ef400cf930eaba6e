"""The formulas of weights, gradients and optimiser against what DeepSpeed's engine holds on two ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.sizing import TrainingPlacement, model_states
from model.sizing.deepspeed_states import BUCKET_ELEMENTS, LIVE_ELEMENTS, SUB_GROUP_ELEMENTS, pinned_bytes

_REPOSITORY = Path(__file__).parents[3]
_LARGEST = 256 * 64  # the embedding of the model in tests/support/deepspeed_states.py


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases, from one pair of processes."""
    result = tmp_path_factory.mktemp("states") / "states.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_REPOSITORY),
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "tests/support/deepspeed_states.py", str(result)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=_REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=500) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@pytest.mark.slow
def test_states_are_what_deepspeed_holds(measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sizing.deepspeed_states.pinned_bytes", lambda size: size)  # nothing is pinned on a CPU
    assert (measured["bucket"], measured["live"], measured["sub_group"]) == (
        BUCKET_ELEMENTS, LIVE_ELEMENTS, SUB_GROUP_ELEMENTS,
    )  # fmt: skip
    assert {case["zero_stage"] for case in measured["cases"]} == {1, 2, 3}
    for case in measured["cases"]:
        offloaded = case["offloaded"]
        placement = TrainingPlacement(
            precision=case["precision"], ranks=2, zero_stage=case["zero_stage"],
            offload_optimizer="offload_optimizer" in offloaded, offload_parameters="offload_param" in offloaded,
        )  # fmt: skip
        states = model_states(case["parameters"], _LARGEST, placement)
        expected = states.weights + states.gradients + states.master_weights + states.moments
        expected += sum(size for name, size in states.cpu.items() if name != "update")
        if (case["precision"], case["zero_stage"]) == ("fp32", 2):
            expected -= states.gradients // 2  # the second copy is gone when a micro-batch's backward is done
        assert case["bytes"] == pytest.approx(expected, rel=0.05), case


def test_zero_1_in_bf16_keeps_every_gradient_twice() -> None:
    states = model_states(8_000, 100, TrainingPlacement(ranks=8, zero_stage=1))
    assert (states.weights, states.gradients) == (16_000, 48_000)
    assert (states.master_weights, states.moments) == (4_000, 8_000)


def test_offloading_moves_the_optimizer_and_leaves_no_less_in_all() -> None:
    on_gpu = model_states(10**9, 10**8, TrainingPlacement(ranks=4, zero_stage=3))
    away = model_states(10**9, 10**8, TrainingPlacement(ranks=4, zero_stage=3, offload_optimizer=True))
    assert (away.gradients, away.master_weights, away.moments) == (0, 0, 0)
    moved = on_gpu.gradients + on_gpu.master_weights + on_gpu.moments
    assert sum(away.cpu.values()) >= moved
    assert away.weights == on_gpu.weights


def test_pinned_memory_comes_in_powers_of_two() -> None:
    assert [pinned_bytes(size) for size in (1, 2, 3, 4096, 4097)] == [1, 2, 4, 4096, 8192]
