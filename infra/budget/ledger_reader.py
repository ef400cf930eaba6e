"""Reading the ledger: only what is new since the last time, whatever happens to the file meanwhile.

Every ledger of one path shares a reader in a process, so that asking for a total every few seconds
costs what was written since, not the whole file. A file that was replaced, cut or written anew is
noticed by its inode, its size and the last line that was read, and is then read from its beginning.
(A line edited in place further up is noticed by the next process that reads the ledger.)
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from infra.budget.ledger_attempt import CURRENCY, Attempt, Outcome
from infra.budget.ledger_events import ENDED, HEARTBEAT, IDENTITY, Event, decode_event

_BLOCK_BYTES = 8 << 20
_REMEMBERED_BYTES = 256
_LEDGERS_REMEMBERED = 8


@dataclass
class _Events:
    """What the events of one attempt said so far; `identity` is empty while its start is not known."""

    identity: Event = field(default_factory=dict)
    started: float = 0.0
    last_seen: float = 0.0
    elapsed: float | None = None
    outcome: Outcome = "interrupted"


class LedgerReader:
    """The attempts of one ledger file; safe for concurrent readers (threads) and writers (processes)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._forget()

    def attempts(self) -> list[Attempt]:
        """Every attempt that can be charged, in the order it started."""
        with self._guard:
            self._refresh()
            return [self._attempts[name] for name in self._events if name in self._attempts]

    def damaged_lines(self) -> int:
        """Lines that fail their checksum: torn by a crash, flipped by a disk or edited by hand."""
        with self._guard:
            self._refresh()
            return self._damaged + self._torn

    def unpriced_attempts(self) -> int:
        """Attempts whose start was on a damaged line and whose end was never written: nobody knows their price."""
        with self._guard:
            self._refresh()
            return sum(1 for seen in self._events.values() if not seen.identity)

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._last_bytes = b""
        self._damaged = self._torn = 0
        self._events: dict[str, _Events] = {}
        self._attempts: dict[str, Attempt] = {}

    def _refresh(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._forget()
            return
        try:
            size = _settled_size(descriptor)
            status = os.fstat(descriptor)
            file = (status.st_dev, status.st_ino)
            if file != self._file or not self._continues(descriptor, size):
                self._forget()
                self._file = file
            self._read(descriptor, size)
        finally:
            os.close(descriptor)

    def _continues(self, descriptor: int, size: int) -> bool:
        """Whether what was read before is still there."""
        before = self._offset - len(self._last_bytes)
        return size >= self._offset and os.pread(descriptor, len(self._last_bytes), before) == self._last_bytes

    def _read(self, descriptor: int, size: int) -> None:
        rest, position = b"", self._offset
        touched: set[str] = set()
        while position < size:
            block = os.pread(descriptor, min(_BLOCK_BYTES, size - position), position)
            if not block:  # cut while it was read; the next time starts anew
                break
            position += len(block)
            *lines, rest = (rest + block).split(b"\n")
            touched |= self._take(lines)
        # No writer holds the lock at `size`: a last line without newline is whole, or torn by a crash for good.
        last = decode_event(rest) if rest else None
        if last is not None:
            touched.add(self._note(last))
            rest = b""
        self._torn = int(bool(rest))
        self._offset = position - len(rest)
        remembered = min(_REMEMBERED_BYTES, self._offset)
        self._last_bytes = os.pread(descriptor, remembered, self._offset - remembered)
        self._update(touched)

    def _take(self, lines: Iterable[bytes]) -> set[str]:
        touched = set()
        for line in lines:
            if not line:
                continue
            event = decode_event(line)
            if event is None:
                self._damaged += 1
            else:
                touched.add(self._note(event))
        return touched

    def _note(self, event: Event) -> str:
        identifier = str(event["attempt"])
        seen = self._events.get(identifier)
        if seen is None:
            seen = self._events[identifier] = _Events()
        kind = event["event"]
        seen.last_seen = event["time"]
        seen.elapsed = event.get("elapsed", seen.elapsed)
        if kind == ENDED:
            seen.outcome = event["outcome"]
        if not seen.identity and kind != HEARTBEAT and event.keys() >= IDENTITY:
            seen.identity = event
            seen.started = event["started"] if "started" in event else event["time"]
        return identifier

    def _update(self, identifiers: Iterable[str]) -> None:
        for identifier in identifiers:
            attempt = _attempt(identifier, self._events[identifier])
            if attempt is not None:
                self._attempts[identifier] = attempt


@lru_cache(maxsize=_LEDGERS_REMEMBERED)
def ledger_reader(path: Path) -> LedgerReader:
    """The reader of this process for an absolute path."""
    return LedgerReader(path)


# A child that was forked while another thread was reading would wait for that thread's lock for ever.
os.register_at_fork(after_in_child=ledger_reader.cache_clear)


def _settled_size(descriptor: int) -> int:
    """The file's size while no writer is in the middle of a line; what is before it never changes."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        return os.fstat(descriptor).st_size
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _attempt(identifier: str, seen: _Events) -> Attempt | None:
    if not seen.identity:
        return None
    identity = seen.identity
    return Attempt(
        attempt_id=identifier, run_id=identity["run_id"], profile=identity["profile"], stage=identity["stage"],
        provider=identity["provider"], usd_per_hour=identity["usd_per_hour"], started=seen.started,
        last_seen=seen.last_seen, outcome=seen.outcome, machine=identity.get("machine", ""),
        currency=identity.get("currency", CURRENCY), elapsed_seconds=seen.elapsed,
    )  # fmt: skip
