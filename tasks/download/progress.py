"""Progress of reading and fetching: bytes, MB/s and time left, from workers to the stage's report.

A worker process cannot call the stage's report, so each unit of work keeps a counter in a small file that the
reporting process adds up. Counters only tell people something; no result depends on them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from infra.artifacts.stage import ProgressReporter

_RECORD = struct.Struct("<qq")
_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Throughput:
    """How far something is. `total_bytes` None: not known."""

    done_bytes: int
    total_bytes: int | None
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.done_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the present rate; None where it cannot be said."""
        if self.total_bytes is None or self.bytes_per_second == 0:
            return None
        return max(self.total_bytes - self.done_bytes, 0) / self.bytes_per_second

    def describe(self) -> str:
        """`12.3 of 45.6 MB, 7.8 MB/s, 4 s left`."""
        amount = f"{self.done_bytes / 1e6:.1f}"
        if self.total_bytes is not None:
            amount += f" of {self.total_bytes / 1e6:.1f}"
        left = "" if self.eta_seconds is None else f", {_duration(self.eta_seconds)} left"
        return f"{amount} MB, {self.bytes_per_second / 1e6:.1f} MB/s{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


Observer = Callable[[Throughput], None]
#: Who watches transfers of this context (sources fetch deep inside, where no report is at hand).
_OBSERVER: ContextVar[Observer | None] = ContextVar("transfer observer", default=None)
_REFRESH: ContextVar[Callable[[], None] | None] = ContextVar("progress refresh", default=None)


@contextmanager
def transfers_observed(observer: Observer) -> Iterator[None]:
    """Within the block, `observer` is called while something is fetched; what it raises stops the transfer."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def observe_transfer(throughput: Throughput) -> None:
    """Tell the observer of this context, if there is one."""
    observer = _OBSERVER.get()
    if observer is not None:
        observer(throughput)


class UnitCounter:
    """A unit's own counters: bytes of text read and bytes fetched."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / name
        self._read = self._fetched = 0
        self._next = 0.0

    def read(self, size_bytes: int) -> None:
        """Count text that was read."""
        self._read += size_bytes
        self._save()

    def fetched(self, throughput: Throughput) -> None:
        """Count what a transfer has fetched (an observer of transfers)."""
        self._fetched = throughput.done_bytes
        self._save()

    def _save(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_SECONDS
        self._path.write_bytes(_RECORD.pack(self._read, self._fetched))
        refresh = _REFRESH.get()
        if refresh is not None:
            refresh()


class ReadingProgress:
    """Wraps a stage's report: adds amount, rate and time left to every message.

    `sizes`: unit name -> bytes as stored (0 where unknown); a unit counts with at most that.
    """

    def __init__(self, report: ProgressReporter, directory: Path, sizes: Mapping[str, int], span: tuple[float, float]):
        self._report = report
        self._directory = directory
        self._sizes = sizes
        self._span = span
        self._message = "sources"
        self._started = time.monotonic()
        self._before: int | None = None

    def report(self, fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        """The stage's report with throughput; a fraction by bytes where it is further than the one by units."""
        self._message = message
        throughput, fetched = self._throughput()
        text = f"{message}; {throughput.describe()}"
        if fetched:
            text += f"; {fetched / 1e6:.1f} MB fetched"
        if throughput.total_bytes:
            start, end = self._span
            share = min(throughput.done_bytes / throughput.total_bytes, 1.0)
            fraction = max(fraction, start + (end - start) * share)
        live = {"download/megabytes_per_second": throughput.bytes_per_second / 1e6}
        self._report(fraction, text, {**live, **(metrics or {})})

    @contextmanager
    def in_this_process(self) -> Iterator[None]:
        """Units that run in this very process report through here."""
        token = _REFRESH.set(lambda: self.report(self._span[0], self._message))
        try:
            yield
        finally:
            _REFRESH.reset(token)

    def _throughput(self) -> tuple[Throughput, int]:
        done = fetched = 0
        for name, size in self._sizes.items():
            try:
                read, got = _RECORD.unpack((self._directory / name).read_bytes())
            except (OSError, struct.error):
                continue  # not begun, or being written this moment
            done += min(read, size) if size else read
            fetched += got
        if self._before is None:
            self._before = done  # what an earlier attempt did is not this one's rate
        total = sum(self._sizes.values()) if self._sizes and all(self._sizes.values()) else None
        left = None if total is None else total - self._before
        return Throughput(done - self._before, left, time.monotonic() - self._started), fetched
