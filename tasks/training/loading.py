"""The micro-batches of coming updates, made by a thread while the current update is trained on.

The rows are those that the sampler gives, in any case: the thread only makes them earlier. It can be seated at any
update, as after a roll-back, and it says which file it reads when that does not come.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import torch

from tasks.training.data_order import Batch, BatchNumbers, BatchPlan, Reading
from tasks.training.errors import LoaderTrouble

_CPU = torch.device("cpu")
_LONGEST_POLL_SECONDS = 1.0
_CLOSE_SECONDS = 1.0


class Rows(Protocol):
    """Numbered rows to train on (`Sampler` is one)."""

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows [first_row, first_row + rows)."""

    def target_count(self, first_row: int, rows: int) -> int:
        """Targets in those rows."""

    def reading(self) -> Reading | None:
        """What is being read at this moment; any thread may ask."""


class LoaderStalled(LoaderTrouble):
    """Reading made no progress for too long."""


@dataclass(frozen=True)
class LoadedUpdate:
    """What one rank trains on in one update.

    update: counted from 0. batch: the number of its batch, which differs where batches are skipped. micro_batches:
    this rank's rows, or its stretch of them under sequence parallelism. target_count: targets of all ranks together.
    """

    update: int
    batch: int
    micro_batches: tuple[Batch, ...]
    target_count: int


class Loader:
    """The updates' micro-batches in order, made ahead by a thread. Close it, or use it as a context manager."""

    def __init__(
        self,
        sampler: Rows,
        plan: BatchPlan,
        rank: int,
        *,
        first_update: int = 0,
        numbers: BatchNumbers | None = None,
        depth: int = 2,
        device: torch.device = _CPU,
        stall_seconds: float = 300.0,
    ) -> None:
        """Begin to make updates `first_update` and following, `depth` of them ahead, pinned if `device` is a GPU."""
        self._sampler = sampler
        self._plan = plan
        self._numbers = numbers or BatchNumbers()
        self._rank = rank
        self._depth = depth
        self._device = device
        self._stall_seconds = stall_seconds
        self._producer = self._started(first_update)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def next(self, on_wait: Callable[[str], None] | None = None) -> LoadedUpdate:
        """The next update. While it is not ready, `on_wait` is told what is being done, once a second or more often.

        Raises LoaderStalled when nothing is read for `stall_seconds`, and whatever making the rows raised, with the
        traceback of the thread.
        """
        producer = self._producer
        doing, since = self._doing(), time.monotonic()
        with producer.condition:
            while not producer.ready:
                if producer.error is not None:
                    raise producer.error
                producer.condition.wait(min(_LONGEST_POLL_SECONDS, self._stall_seconds / 4))
                if (now := self._doing()) != doing:
                    doing, since = now, time.monotonic()
                elif time.monotonic() - since > self._stall_seconds:
                    raise self._stalled()
                if on_wait is not None:
                    on_wait(self.activity())
            loaded = producer.ready.popleft()
            producer.condition.notify_all()
            return loaded

    def seat(self, update: int, numbers: BatchNumbers | None = None, plan: BatchPlan | None = None) -> None:
        """Go on with `update`, and from now on with these batch numbers and this plan, where they are given.

        Raises LoaderStalled when the thread cannot be stopped because a read does not end.
        """
        self._producer.stop()
        self._producer.thread.join(self._stall_seconds)
        if self._producer.thread.is_alive():
            raise self._stalled()
        self._numbers = self._numbers if numbers is None else numbers
        self._plan = self._plan if plan is None else plan
        self._producer = self._started(update)

    def activity(self) -> str:
        """What the thread is doing, in few words, for a heartbeat. Any thread may ask."""
        producer = self._producer
        if len(producer.ready) >= self._depth:
            return f"{len(producer.ready)} updates ready"
        reading = self._sampler.reading()
        what = f": document {reading.document} of {reading.path.name}" if reading else ""
        return f"making update {producer.update + 1}, micro-batch {producer.micro_step + 1}{what}"

    def close(self) -> None:
        """Stop the thread; one that hangs in a read is left behind and ends with the process."""
        self._producer.stop()
        self._producer.thread.join(_CLOSE_SECONDS)

    def _started(self, update: int) -> _Producer:
        return _Producer(self._make, self._prepare_thread, update, self._depth)

    def _prepare_thread(self) -> None:
        if self._device.type == "cuda":
            # A new thread begins on the first GPU, and pinning would take memory there on every rank.
            torch.cuda.set_device(self._device)

    def _make(self, producer: _Producer) -> LoadedUpdate:
        plan, batch = self._plan, self._numbers.batch(producer.update)
        micro_batches = []
        for micro_step in range(plan.accumulation):
            producer.micro_step = micro_step
            rows = self._sampler.batch(plan.first_row(batch, micro_step, self._rank), plan.micro_batch)
            if plan.sequence_parallel > 1:
                rows = rows.slice(plan.sequence_rank(self._rank), plan.sequence_parallel)
            micro_batches.append(rows.pinned() if self._device.type == "cuda" else rows)
        targets = self._sampler.target_count(plan.batch_start(batch), plan.rows_per_step)
        return LoadedUpdate(producer.update, batch, tuple(micro_batches), targets)

    def _doing(self) -> tuple[object, ...]:
        """Something that changes whenever the thread gets on."""
        producer = self._producer
        return producer.update, producer.micro_step, self._sampler.reading()

    def _stalled(self) -> LoaderStalled:
        reading, producer = self._sampler.reading(), self._producer
        what = str(reading) if reading else "no file: drawing the order of the documents"
        return LoaderStalled(
            f"the training data of update {producer.update + 1} (micro-batch {producer.micro_step + 1}) did not get on "
            f"for {self._stall_seconds:.0f} s while reading {what}.",
            "check the disk or network mount of that file; training continues from its last checkpoint.",
        )


class _Producer:
    """One seating of the thread."""

    def __init__(
        self, make: Callable[[_Producer], LoadedUpdate], prepare: Callable[[], None], update: int, depth: int
    ) -> None:
        self.condition = threading.Condition()
        self.ready: deque[LoadedUpdate] = deque()
        self.error: BaseException | None = None
        self.update = update
        self.micro_step = 0
        self._make = make
        self._prepare = prepare
        self._depth = depth
        self._stopped = False
        # A daemon: a read that never ends must not keep the process.
        self.thread = threading.Thread(target=self._run, name="data-loader", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Make nothing more than what is being made."""
        with self.condition:
            self._stopped = True
            self.condition.notify_all()

    def _run(self) -> None:
        try:
            self._prepare()
            while self._may_go_on():
                loaded = self._make(self)
                with self.condition:
                    self.ready.append(loaded)
                    self.update += 1
                    self.condition.notify_all()
        except BaseException as error:  # noqa: BLE001 (raised again by `next`, in the thread that trains)
            with self.condition:
                self.error = error
                self.condition.notify_all()

    def _may_go_on(self) -> bool:
        with self.condition:
            self.condition.wait_for(lambda: self._stopped or len(self.ready) < self._depth)
            return not self._stopped
