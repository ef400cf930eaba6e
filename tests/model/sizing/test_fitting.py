"""What fits: the whole model's memory against a run of it, the longest context, the ways to fit."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from model import HybridLM, parameter_count, preset
from model.errors import ConfigurationError
from model.sizing import TrainingPlacement, gpu_training_memory, largest_context, ways_to_fit
from tests.support.live_memory import LiveMemory

GB = 10**9
LONG = 100_000


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_the_model_takes_what_is_foretold(checkpointing: bool) -> None:
    """On a CPU in bf16, states apart; the norms of a CPU keep one more activation than a GPU's."""
    config = preset("miniature").changed(layer_count=4, hgrn2_head_dim=64, vocabulary_size=64)
    context = 4096
    model = HybridLM(config).to(torch.bfloat16)
    model.gradient_checkpointing = checkpointing
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.randint(0, 64, (1, context + 1))
    gc.collect()
    with LiveMemory() as live:
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    placement = TrainingPlacement(zero_stage=2, gradient_checkpointing=checkpointing, fused=False)
    memory = gpu_training_memory(config, context, placement)
    assert memory.phase == "backward"
    assert live.peak == pytest.approx(memory.kept + memory.working, rel=0.08)


def test_the_longest_context_fits_and_the_next_does_not() -> None:
    config = preset("sam2-5.5b")
    placement = TrainingPlacement(ranks=8, zero_stage=3, gradient_checkpointing=True)
    longest = largest_context(config, 80 * GB, placement)
    assert gpu_training_memory(config, longest, placement).total <= 80 * GB
    assert gpu_training_memory(config, longest + 1024, placement).total > 80 * GB
    assert largest_context(config, 10 * GB, placement) == 0
    shared = largest_context(config, 80 * GB, replace(placement, sequence_parallel=4))
    assert shared > 3 * longest


def test_ways_to_fit_fit_and_come_cheapest_first() -> None:
    config = preset("sam2-5.5b")
    ways = ways_to_fit(config, LONG, 80 * GB, 8)
    assert ways
    assert all(way.memory.total <= 80 * GB for way in ways)
    assert [way.slowdown for way in ways] == sorted(way.slowdown for way in ways)
    assert any(way.memory.cpu_total == 0 for way in ways), "eight GPUs need no CPU memory"


def test_one_gpu_of_80_gb_trains_the_long_context_model_with_its_optimizer_elsewhere_alone() -> None:
    ways = ways_to_fit(preset("sam2-5.5b"), LONG, 80 * GB, 1)
    assert ways
    assert all(way.placement.offload_optimizer and way.placement.gradient_checkpointing for way in ways)
    states = 20 * parameter_count(preset("sam2-5.5b")).total
    assert min(way.memory.cpu_total for way in ways) >= states
    assert ways_to_fit(preset("sam2-5.5b"), LONG, 80 * GB, 1, cpu_bytes=64 * GB) == []


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_checkpointing": True},
        {"sequence_parallel": 2},
        {"gradient_checkpointing": True, "offload_activations": True},
        {"zero_stage": 3},
        {"offload_optimizer": True},
    ],
)
def test_each_measure_saves_memory_on_the_gpu(change: dict[str, object]) -> None:
    config = preset("sam2-5.5b")
    plain = TrainingPlacement(ranks=8)
    assert (
        gpu_training_memory(config, 65_536, replace(plain, **change)).total  # type: ignore[arg-type]
        < gpu_training_memory(config, 65_536, plain).total
    )


def test_placements_that_cannot_be_are_refused() -> None:
    for fields, message in (
        ({"zero_stage": 0}, "needs fp32 weights"),
        ({"ranks": 6, "sequence_parallel": 4}, "does not divide ranks=6"),
        ({"offload_parameters": True}, "needs zero_stage=3"),
        ({"offload_activations": True}, "needs gradient_checkpointing"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            TrainingPlacement(**fields)  # type: ignore[arg-type]
