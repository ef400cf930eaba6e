from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.cache import NO_SNAPSHOTS, Snapshot, SnapshotPolicy
from model.cache.snapshots import with_snapshot


def lengths_after(steps: list[int], limit: int) -> list[int]:
    kept: list[Snapshot] = []
    for length in itertools.accumulate(steps):
        kept = with_snapshot(kept, Snapshot(length, ()), limit)
    return [snapshot.length for snapshot in kept]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(1, 9))
def test_the_newest_stays_and_the_number_is_bounded(steps: list[int], limit: int) -> None:
    kept = lengths_after(steps, limit)
    assert kept[-1] == sum(steps)
    assert len(kept) == min(limit, len(steps))
    assert kept == sorted(set(kept))


def test_what_stays_is_spread_over_the_whole_length() -> None:
    kept = lengths_after([2048] * 50, 8)
    gaps = [after - before for before, after in itertools.pairwise([0, *kept])]
    assert max(gaps) <= 2 * 50 * 2048 / 8


def test_a_snapshot_replaces_those_of_its_length_and_later_ones() -> None:
    kept = with_snapshot([Snapshot(5, ()), Snapshot(9, ()), Snapshot(12, ())], Snapshot(9, ({},)), 5)
    assert [(snapshot.length, snapshot.layers) for snapshot in kept] == [(5, ()), (9, ({},))]


@pytest.mark.parametrize(("before", "after", "due"), [(0, 15, False), (0, 16, True), (15, 40, True), (16, 31, False)])
def test_a_copy_is_due_at_the_first_border_after_a_multiple(before: int, after: int, due: bool) -> None:
    assert SnapshotPolicy(every_tokens=16).due(before, after) is due
    assert not NO_SNAPSHOTS.due(before, after)


def test_policies_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="every_tokens=0"):
        SnapshotPolicy(every_tokens=0)
