"""Which configurations are measured, and what the trainer is told of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.calibration import Variant
from tasks.calibration.points import point, points_of, spread_out, variants_of
from tests.tasks.calibration import synthetic


def sizes(*contexts: int, **fields: int) -> list[tuple[int, int]]:
    """(context, micro-batch) of the points for stages of these contexts."""
    stages = [synthetic.stage(context, **fields) for context in contexts]
    return [(found.context_tokens, found.batch_plan.micro_batch) for found in points_of(stages)]


def test_each_context_has_its_planned_micro_batch_and_a_smaller_one() -> None:
    assert set(sizes(256, 512, 1024, batch_tokens=2048)) == {
        (256, 8), (256, 2), (512, 4), (512, 1), (1024, 2), (1024, 1),
    }  # fmt: skip


def test_a_single_context_gets_shorter_ones_beside_it() -> None:
    assert {context for context, _ in sizes(1024)} == {256, 512, 1024}


def test_of_many_contexts_the_ends_and_some_between() -> None:
    contexts = {context for context, _ in sizes(64, 128, 256, 512, 1024, 2048, 4096)}
    assert len(contexts) == 4
    assert {64, 4096} <= contexts


def test_stated_contexts_are_all_measured() -> None:
    stages = [synthetic.stage(512)]
    found = points_of(stages, [64, 128, 256, 512, 1024])
    assert {one.context_tokens for one in found} == {64, 128, 256, 512, 1024}


@given(context=st.sampled_from([32, 64, 512, 4096]), batch=st.sampled_from([1, 2, 6, 16]))
def test_points_are_few_and_ordered_by_their_tokens(context: int, batch: int) -> None:
    found = points_of([synthetic.stage(context, batch_tokens=context * batch)])
    tokens = [one.context_tokens * one.batch_plan.micro_batch for one in found]
    assert tokens == sorted(tokens)
    assert 1 <= len(found) <= 8
    assert len({one.batch_plan.accumulation for one in found}) == 1  # they share an engine


def test_a_point_neither_validates_nor_saves_nor_skips_rows() -> None:
    stage = synthetic.stage(256, validation_rows=16, packing="best_fit", mixture={"a": 1.0}, warmup_fraction=0.5)
    found = point(stage, 128, 4, 2)
    assert (found.context_tokens, found.batch_plan.micro_batch, found.batch_plan.accumulation) == (128, 4, 2)
    assert found.validation_rows == 0
    assert found.every(found.checkpoint_every_fraction) > 1e6
    assert (found.mixture, found.packing) == (None, "stream")
    assert Variant.of(found) == Variant.of(stage)


def test_several_ranks_share_the_rows() -> None:
    found = point(synthetic.stage(256, ranks=4, sequence_parallel=2), 256, 3, 2)
    assert found.rows_per_step == 3 * 2 * 2
    assert found.batch_plan.accumulation == 2


def test_stages_of_other_settings_are_measured_apart() -> None:
    stages = [synthetic.stage(256), synthetic.stage(512), synthetic.stage(1024, gradient_checkpointing=True)]
    found = variants_of(stages)
    assert [len(own) for own in found.values()] == [2, 1]


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (10, [0, 3, 6, 9])])
def test_spreading_keeps_the_ends(count: int, expected: list[int]) -> None:
    assert spread_out(list(range(count)), 4) == expected
