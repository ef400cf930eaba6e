"""The ledger: an append-only, crash-safe record of every attempt of every stage.

One JSON line an event, each with its own checksum, appended under a file lock and synced to
disk. An attempt is `started`, kept alive by `heartbeat` lines and closed by `ended`. An attempt
that was killed has no `ended` line: it is charged up to its last heartbeat. A torn last line
(power cut in the middle of a write) is ignored when reading and sealed off by the next append.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.artifacts.manifest import canonical_json
from infra.budget.prices import ComputePrice
from infra.storage.checksum import checksum_bytes
from infra.storage.local import explained_write_errors

HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Attempt:
    """One attempt of one stage, as the ledger tells it. Times are Unix seconds."""

    attempt_id: str
    run_id: str
    profile: str
    stage: str
    provider: str
    usd_per_hour: float
    started: float
    last_seen: float
    outcome: str  # completed, failed, reused, or 'interrupted' when it was never closed

    @property
    def seconds(self) -> float:
        return max(0.0, self.last_seen - self.started)

    @property
    def usd(self) -> float:
        return self.seconds / 3600 * self.usd_per_hour

    @property
    def day(self) -> str:
        """UTC day the attempt started, YYYY-MM-DD."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.started))


@dataclass(frozen=True)
class SpendRow:
    """A total of the ledger by some key."""

    key: str
    attempts: int
    seconds: float
    usd: float


class Ledger:
    """The ledger file; safe for concurrent writers on one host and for kill -9 at any byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def attempt(self, *, run_id: str, profile: str, stage: str, price: ComputePrice) -> Iterator[OpenAttempt]:
        """Record an attempt around a block; its end is written whatever happens inside."""
        opened = OpenAttempt(uuid.uuid4().hex)
        self._append(
            "started", opened, run_id=run_id, profile=profile, stage=stage,
            provider=price.provider, usd_per_hour=price.usd_per_hour,
        )  # fmt: skip
        stopped = threading.Event()
        beat = threading.Thread(target=self._beat, args=(opened, stopped), daemon=True)
        beat.start()
        try:
            yield opened
        except BaseException:
            opened.outcome = "failed"
            raise
        finally:
            stopped.set()
            beat.join()
            self._append("ended", opened, outcome=opened.outcome)

    def attempts(self) -> list[Attempt]:
        """Every attempt, in the order it started. Damaged lines are skipped (see `damaged_lines`)."""
        opened: dict[str, dict[str, Any]] = {}
        for event in self._events():
            identifier = event["attempt"]
            if event["event"] == "started":
                opened[identifier] = {**event, "last_seen": event["time"], "outcome": "interrupted"}
            elif identifier in opened:
                opened[identifier]["last_seen"] = event["time"]
                if event["event"] == "ended":
                    opened[identifier]["outcome"] = event["outcome"]
        return [
            Attempt(
                attempt_id=identifier, run_id=entry["run_id"], profile=entry["profile"], stage=entry["stage"],
                provider=entry["provider"], usd_per_hour=entry["usd_per_hour"], started=entry["time"],
                last_seen=entry["last_seen"], outcome=entry["outcome"],
            )
            for identifier, entry in opened.items()
        ]  # fmt: skip

    def spend_by(self, key: str, *, run_id: str | None = None) -> list[SpendRow]:
        """Totals by `run_id`, `stage`, `provider`, `profile`, `day` or `outcome`, in first-seen order."""
        rows: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts():
            if run_id is None or attempt.run_id == run_id:
                rows[str(getattr(attempt, key))].append(attempt)
        return [
            SpendRow(name, len(group), sum(a.seconds for a in group), sum(a.usd for a in group))
            for name, group in rows.items()
        ]

    def total_usd(self, *, run_id: str | None = None, profile: str | None = None) -> float:
        """Dollars of all attempts, or those of one run or one profile."""
        return sum(
            attempt.usd
            for attempt in self.attempts()
            if (run_id is None or attempt.run_id == run_id) and (profile is None or attempt.profile == profile)
        )

    def damaged_lines(self) -> int:
        """Lines that fail their checksum: torn by a crash or edited by hand."""
        return sum(1 for line in self._lines() if _decode(line) is None)

    def _beat(self, opened: OpenAttempt, stopped: threading.Event) -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            try:
                self._append("heartbeat", opened)
            except Exception:  # noqa: BLE001, S112 - a full disk now must not end the stage; the next beat tries again
                continue

    def _append(self, event: str, opened: OpenAttempt, **fields: Any) -> None:
        record = {"event": event, "attempt": opened.attempt_id, "time": time.time(), **fields}
        line = _encode(record)
        with explained_write_errors(self.path), self.path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.tell() and not _ends_with_newline(self.path):
                line = b"\n" + line  # seal a line torn by a crash
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _lines(self) -> list[bytes]:
        try:
            return [line for line in self.path.read_bytes().split(b"\n") if line]
        except FileNotFoundError:
            return []

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            event = _decode(line)
            if event is not None:
                yield event


@dataclass
class OpenAttempt:
    """A running attempt; set `outcome` to 'reused' when nothing had to be done."""

    attempt_id: str
    outcome: str = "completed"


def _encode(record: dict[str, Any]) -> bytes:
    body = canonical_json(record)
    return checksum_bytes(body).partition(":")[2][:16].encode() + b" " + body + b"\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    stated, _, body = line.partition(b" ")
    if checksum_bytes(body).partition(":")[2][:16].encode() != stated:
        return None
    record: dict[str, Any] = json.loads(body)
    return record


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
