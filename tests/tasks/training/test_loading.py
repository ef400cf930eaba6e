"""The prefetching loader: the sampler's very rows, at any place, and a name for what does not come."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tasks.training.data_order import Batch, BatchNumbers, BatchPlan, Sampler
from tasks.training.loading import Loader, LoaderStalled
from tests.tasks.training.data_order.numbered_corpus import Corpus

PLAN = BatchPlan(rows_per_step=8, micro_batch=2, ranks=2, first_row_of_stage=24)


class HeldCorpus(Corpus):
    """A corpus whose second shard is read only with permission."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(lengths)
        self.permits = threading.Semaphore(0)
        held = self.shards[1]
        permits = self.permits

        class Held:
            path = held.path
            starts = staticmethod(held.starts)

            def __len__(self) -> int:
                return len(held)

            @property
            def tokens(self) -> np.ndarray:
                permits.acquire()
                return held.tokens

        self.shards[1] = Held()  # type: ignore[call-overload]


def sampler(corpus: Corpus | None = None, **options: Any) -> Sampler:
    corpus = corpus or Corpus([7, 30, 12, 5] * 20)
    return Sampler(corpus, context_tokens=16, seed=3, stage="first", **options)


def same(one: Batch, other: Batch) -> bool:
    pairs = ((one.tokens, other.tokens), (one.targets, other.targets), (one.document_ids, other.document_ids))
    return all(torch.equal(a, b) for a, b in pairs)


def check(loader: Loader, update: int, plan: BatchPlan, rank: int, numbers: BatchNumbers, count: int = 4) -> None:
    """The next updates are what the sampler gives without the loader."""
    for expected in range(update, update + count):
        loaded, reference = loader.next(), sampler()
        batch = numbers.batch(expected)
        assert (loaded.update, loaded.batch) == (expected, batch)
        assert loaded.target_count == reference.target_count(plan.batch_start(batch), plan.rows_per_step)
        assert len(loaded.micro_batches) == plan.accumulation
        for micro_step, found in enumerate(loaded.micro_batches):
            rows = reference.batch(plan.first_row(batch, micro_step, rank), plan.micro_batch)
            assert same(found, rows.slice(plan.sequence_rank(rank), plan.sequence_parallel))


@pytest.mark.parametrize("plan", [PLAN, BatchPlan(8, 4, 4, 2), BatchPlan(4, 4, 1)])
@pytest.mark.parametrize("depth", [1, 3])
def test_it_gives_the_samplers_rows(plan: BatchPlan, depth: int) -> None:
    numbers = BatchNumbers((2, 3, 5))
    for rank in range(plan.ranks):
        with Loader(sampler(), plan, rank, first_update=1, numbers=numbers, depth=depth) as loader:
            check(loader, 1, plan, rank, numbers)


def test_it_can_be_seated_anywhere_with_other_batches_and_another_plan() -> None:
    with Loader(sampler(), PLAN, 1) as loader:
        check(loader, 0, PLAN, 1, BatchNumbers())
        loader.seat(2)
        check(loader, 2, PLAN, 1, BatchNumbers())
        loader.seat(1, BatchNumbers((1, 2)))
        check(loader, 1, PLAN, 1, BatchNumbers((1, 2)))
        smaller = PLAN.with_smaller_micro_batch()
        loader.seat(3, plan=smaller)
        check(loader, 3, smaller, 1, BatchNumbers((1, 2)))


def wait_until_idle(loader: Loader) -> None:
    with loader._producer.condition:
        assert loader._producer.condition.wait_for(lambda: "ready" in loader.activity(), timeout=60)


def test_it_makes_no_more_than_its_depth_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    inner = Sampler.batch
    monkeypatch.setattr(Sampler, "batch", lambda self, first, rows: made.append(first) or inner(self, first, rows))
    with Loader(sampler(), PLAN, 0, depth=3) as loader:
        wait_until_idle(loader)
        assert len(made) == 3 * PLAN.accumulation
        assert loader.activity() == "3 updates ready"
        loader.next()
        wait_until_idle(loader)
        assert len(made) == 4 * PLAN.accumulation


def test_what_fails_in_the_thread_is_raised_where_training_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Sampler.batch

    def broken_disk(self: Sampler, first_row: int, rows: int) -> Batch:
        if first_row >= PLAN.first_row(2, 0, 0):
            raise OSError("Input/output error")
        return inner(self, first_row, rows)

    monkeypatch.setattr(Sampler, "batch", broken_disk)
    with Loader(sampler(), PLAN, 0, depth=5) as loader:
        assert [loader.next().update, loader.next().update] == [0, 1], "what was made before is good"
        with pytest.raises(OSError, match="Input/output error") as caught:
            loader.next()
        assert "broken_disk" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_a_file_that_does_not_come_is_named() -> None:
    corpus = HeldCorpus([16] * 6)
    with Loader(sampler(corpus), BatchPlan(6, 6, 1), 0, first_update=4, stall_seconds=0.2) as loader:
        told: list[str] = []
        with pytest.raises(LoaderStalled, match=r"update 5 \(micro-batch 1\).*document 0 of 'shard-1.bin'"):
            loader.next(told.append)
        assert told[-1] == "making update 5, micro-batch 1: document 0 of shard-1.bin"
        with pytest.raises(LoaderStalled, match="shard-1"):
            loader.seat(0)
        corpus.permits.release(1000)


def test_slow_reading_is_no_stall() -> None:
    """The update takes longer than the limit, but all the time something is read."""
    corpus = HeldCorpus([16] * 4)  # a row of every four is held
    with Loader(sampler(corpus), BatchPlan(12, 1, 1), 0, stall_seconds=1.2) as loader:
        polls: list[str] = []

        def wait(doing: str) -> None:
            polls.append(doing)
            if len(polls) % 2 == 0:
                corpus.permits.release()

        assert loader.next(wait).update == 0
        assert len(polls) > 4, "a poll is a quarter of the limit"
        corpus.permits.release(1000)


def test_on_a_gpu_rows_are_pinned_by_a_thread_of_the_ranks_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    def record(name: str) -> Callable[..., Any]:
        return lambda value: calls.append((name, threading.current_thread().name)) or value

    monkeypatch.setattr(torch.cuda, "set_device", record("set_device"))
    monkeypatch.setattr(Batch, "pinned", record("pinned"))
    with Loader(sampler(), PLAN, 0, depth=1, device=torch.device("cuda", 1)) as loader:
        loader.next()
    pinned = [("pinned", "data-loader")] * PLAN.accumulation
    assert calls[: 1 + PLAN.accumulation] == [("set_device", "data-loader"), *pinned]
