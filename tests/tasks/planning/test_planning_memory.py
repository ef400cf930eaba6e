"""The memory grid, and placements on other numbers of GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model import preset
from model.sizing import gpu_training_memory, largest_context
from tasks.planning.memory import memory_grid
from tasks.planning.placement import divides_batch, fitting_ways, on_ranks
from tests.tasks.planning.plan_requests import stage

SMALL = preset("small")
STAGE = stage(SMALL, micro_batch=4)
GRID = memory_grid([STAGE], (40, 80))


def test_the_profiles_own_placement_comes_first_and_is_the_only_one_marked() -> None:
    assert [row.is_profile for row in GRID] == [True] + [False] * (len(GRID) - 1)
    own = GRID[0]
    memory = gpu_training_memory(SMALL, 2048, STAGE.placement())
    assert own.total_bytes == memory.total
    assert (own.zero_stage, own.micro_batch, own.ranks) == (2, 4, 8)


def test_the_grid_spans_what_deepspeed_has_for_the_precision() -> None:
    keys = {
        (row.zero_stage, row.micro_batch, row.sequence_parallel, row.gradient_checkpointing, row.offload_activations,
         row.offload_optimizer, row.offload_parameters)
        for row in GRID
    }  # fmt: skip
    assert len(keys) == len(GRID)
    assert {row.zero_stage for row in GRID} == {1, 2, 3}  # bf16 needs fp32 weights beside it
    assert {row.micro_batch for row in GRID} == {1, 2, 4, 8, 16}
    assert all(row.zero_stage == 3 for row in GRID if row.offload_parameters)
    assert all(row.gradient_checkpointing for row in GRID if row.offload_activations)
    # Five micro-batches of three ways with activations, two ways with states and a third in ZeRO-3.
    assert len(GRID) == 5 * 3 * (2 + 2 + 3)


def test_states_shrink_with_zero_and_activations_with_recomputing() -> None:
    def row(zero: int, recomputed: bool) -> int:
        (found,) = [
            r for r in GRID
            if r.zero_stage == zero and r.micro_batch == 16 and r.gradient_checkpointing == recomputed
            and not (r.offload_activations or r.offload_optimizer or r.offload_parameters)
        ]  # fmt: skip
        return found.states_bytes if not recomputed else found.activations_bytes

    assert row(1, False) > row(2, False) > row(3, False)
    plain = next(r for r in GRID if r.micro_batch == 16 and not r.gradient_checkpointing)
    assert row(plain.zero_stage, True) < plain.activations_bytes


def test_longest_contexts_are_those_of_the_sizing_for_one_row() -> None:
    for row in GRID:
        assert bool(row.largest_contexts) == (row.micro_batch == 1)
    row = next(r for r in GRID if r.micro_batch == 1 and r.zero_stage == 3 and not r.gradient_checkpointing)
    placement = replace(STAGE.placement(), micro_batch=1, zero_stage=3)
    assert row.largest_contexts["80"] == largest_context(SMALL, 80e9, placement)
    assert row.largest_contexts["40"] < row.largest_contexts["80"]


def test_plain_float32_has_zero_0_too() -> None:
    plain = STAGE.model_copy(update={"precision": "fp32", "zero_stage": 0})
    assert {row.zero_stage for row in memory_grid([plain], (80,))} == {0, 1, 2, 3}
    muon = plain.model_copy(update={"optimizer": "muon"})
    assert {row.zero_stage for row in memory_grid([muon], (80,))} == {0}


def test_a_stage_moves_to_other_ranks_with_its_batch() -> None:
    moved = on_ranks(STAGE, 64)
    assert moved is not None
    assert (moved.ranks, moved.batch_tokens, moved.steps) == (64, STAGE.batch_tokens, STAGE.steps)
    assert moved.batch_plan.accumulation * moved.batch_plan.micro_batch * 64 == STAGE.rows_per_step
    assert on_ranks(STAGE, 8) is STAGE
    assert on_ranks(STAGE, 1024) is None  # 512 rows
    assert on_ranks(STAGE, 7) is None


@pytest.mark.parametrize("ranks", [8, 16])
def test_ways_to_fit_deal_the_batch_equally(ranks: int) -> None:
    moved = on_ranks(stage(preset("xl")), ranks)
    assert moved is not None
    ways = fitting_ways(moved, 40e9)
    assert ways
    for way in ways:
        assert divides_batch(moved, way.placement)
        assert way.memory.total <= 40e9
