"""Ranks as threads of one process, so that a test of several ranks takes milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class _Meeting:
    barrier: threading.Barrier
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ThreadRank:
    """One of several threads that add up as processes do."""

    rank: int
    ranks: int
    _meeting: _Meeting

    def sum(self, *values: float) -> list[float]:
        self._meeting.values[self.rank] = values
        self._meeting.barrier.wait(30)
        total = [sum(column) for column in zip(*self._meeting.values.values(), strict=True)]
        self._meeting.barrier.wait(30)  # nobody writes the next values before all have read these
        return [float(value) for value in total]


def run_ranks(count: int, work: Callable[[ThreadRank], Result]) -> list[Result]:
    """Run `work` as every rank at once; the results in the ranks' order, or the first rank's error."""
    meeting = _Meeting(threading.Barrier(count))

    def run(rank: int) -> Any:
        try:
            return work(ThreadRank(rank, count, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, rank) for rank in range(count)]
        errors = [future.exception() for future in futures]
        first = [error for error in errors if error and not isinstance(error, threading.BrokenBarrierError)]
        if first:
            raise first[0]
        return [future.result() for future in futures]


def alone() -> ThreadRank:
    """A rank without others."""
    return ThreadRank(0, 1, _Meeting(threading.Barrier(1)))
