"""Batches skipped, and the same rows dealt to any number of ranks and micro-batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.training.data_order import Batch, BatchNumbers, BatchPlan


def rows_of(plan: BatchPlan, batch: int) -> list[int]:
    """All rows of a batch, as the first rank of each sequence group runs them."""
    return sorted(
        plan.first_row(batch, micro_step, rank) + offset
        for micro_step in range(plan.accumulation)
        for rank in range(0, plan.ranks, plan.sequence_parallel)
        for offset in range(plan.micro_batch)
    )


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 4), (2, 2), (2, 4), (4, 2), (8, 1)])
def test_any_number_of_ranks_divides_the_same_global_batch(ranks: int, micro_batch: int) -> None:
    assert rows_of(BatchPlan(rows_per_step=8, micro_batch=micro_batch, ranks=ranks), 5) == list(range(40, 48))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_groups_of_ranks_share_rows_and_together_have_them_all(
    groups: int, sequence_parallel: int, micro_batch: int, accumulation: int, first_row: int
) -> None:
    rows = groups * micro_batch * accumulation
    plan = BatchPlan(rows, micro_batch, groups * sequence_parallel, sequence_parallel, first_row)
    assert plan.accumulation == accumulation
    assert rows_of(plan, 3) == list(range(first_row + 3 * rows, first_row + 4 * rows))
    for rank in range(plan.ranks):
        leader = rank - plan.sequence_rank(rank)
        assert plan.first_row(3, 0, rank) == plan.first_row(3, 0, leader)
        assert leader % sequence_parallel == 0


@pytest.mark.parametrize(
    ("rows", "micro_batch", "smaller"), [(12, 12, 6), (12, 6, 3), (12, 3, 1), (10, 5, 2), (7, 7, 1)]
)
def test_a_smaller_micro_batch_is_at_most_half_and_has_the_same_rows(rows: int, micro_batch: int, smaller: int) -> None:
    plan = BatchPlan(rows * 2, micro_batch, 2, first_row_of_stage=5)
    less = plan.with_smaller_micro_batch()
    assert less.micro_batch == smaller
    assert rows_of(less, 4) == rows_of(plan, 4)
    assert less.accumulation * less.micro_batch == plan.accumulation * plan.micro_batch


def test_one_row_cannot_be_halved() -> None:
    with pytest.raises(ConfigurationError, match="already a single row"):
        BatchPlan(8, 1, 2).with_smaller_micro_batch()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((8, 3, 1), "cannot be dealt to 1 data-parallel ranks in micro-batches of 3"),
        ((8, 1, 4, 3), "groups of sequence_parallel 3"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(plan: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        BatchPlan(*plan)


@given(st.lists(st.integers(0, 60)), st.integers(0, 50))
def test_updates_take_the_batches_that_are_not_skipped_in_order(skipped: list[int], update: int) -> None:
    kept = [number for number in range(200) if number not in skipped]
    numbers = BatchNumbers().skipping(*skipped)
    assert numbers.batch(update) == kept[update]
    assert numbers.drawn(update) == (kept[update - 1] + 1 if update else 0)
    assert BatchNumbers(tuple(skipped)) == numbers


def test_a_batch_number_is_not_negative() -> None:
    with pytest.raises(ValueError, match="-1"):
        BatchNumbers((-1,))


def test_slices_lie_side_by_side_and_keep_the_rows_document_ids() -> None:
    tokens = torch.arange(24).reshape(2, 12)
    batch = Batch(tokens, tokens + 1, torch.arange(12).repeat(2, 1) // 5)
    slices = [batch.slice(rank, 3) for rank in range(3)]
    for name in ("tokens", "targets", "document_ids"):
        parts = [getattr(part, name) for part in slices]
        assert all(part.is_contiguous() and part.shape == (2, 4) for part in parts)
        assert torch.equal(torch.cat(parts, 1), getattr(batch, name))
    assert sum(part.target_count for part in slices) == batch.target_count
    with pytest.raises(
        ConfigurationError, match=r"context_tokens 12 does not divide by sequence_parallel 5.*use 10 tokens"
    ):
        batch.slice(0, 5)
