"""The ledger: an append-only, crash-safe record of every attempt of every stage.

One line an event, each with its own checksum, appended under a file lock and synced to disk before
the work goes on. An attempt is `started`, kept alive by `heartbeat` lines and closed by `ended`; one
that was killed has no `ended` line and is charged up to its last heartbeat. A line torn by a power
cut is counted, left out, and sealed off by the next append. See `ledger_events` for the format.

What happens when the disk is full:
- `started` cannot be written: the error is raised before the stage begins, so nothing is spent unrecorded;
- a heartbeat cannot be written: it is logged once and tried again every few seconds; the stage goes on;
- `ended` cannot be written: it is tried again for some seconds, then the error is raised (added as a note
  to the stage's own error, if it has one). The attempt stays open in the ledger, charged to its last heartbeat.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infra.budget.ledger_attempt import CURRENCY, Attempt, OpenAttempt, machine_name
from infra.budget.ledger_events import ENDED, HEARTBEAT, STARTED, Event, encode_event
from infra.budget.ledger_reader import LedgerReader, ledger_reader
from infra.budget.ledger_totals import SpendRow, spend_rows
from infra.budget.prices import ComputePrice
from infra.storage.local import explained_write_errors, sync_directory

#: The charge of a killed attempt is short by at most one interval. A year of these lines takes 0.3 GB.
HEARTBEAT_SECONDS = 5.0
LATER_HEARTBEAT_SECONDS = 15.0
#: From when on the later interval holds.
DENSE_SECONDS = 60.0
#: Waits before each further try to write an `ended` line.
END_RETRY_SECONDS = (0.5, 1.0, 2.0)
_log = logging.getLogger("sam2.budget")


class Ledger:
    """The ledger file; safe for concurrent writers on one host and for kill -9 at any byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def attempt(self, *, run_id: str, profile: str, stage: str, price: ComputePrice) -> Iterator[OpenAttempt]:
        """Record an attempt around a block; its end is written whatever happens inside.

        An exception makes it `failed`; Ctrl-C, SIGTERM and cancellation make it `interrupted`; an
        attempt whose outcome the block set to `suspended` stays so.
        """
        opened = OpenAttempt()
        identity: Event = {
            "run_id": run_id, "profile": profile, "stage": stage, "provider": price.provider,
            "usd_per_hour": price.usd_per_hour, "currency": CURRENCY, "machine": machine_name(),
        }  # fmt: skip
        started = time.time()
        self._append(STARTED, opened, started, **identity)
        stopped = threading.Event()
        beat = threading.Thread(target=self._beat, args=(opened, stopped), name="ledger heartbeat", daemon=True)
        beat.start()
        failure: BaseException | None = None
        try:
            yield opened
        except BaseException as error:
            opened.note_error(error)
            failure = error
            raise
        finally:
            stopped.set()
            beat.join()
            self._end(opened, {**identity, "started": started}, failure)

    def attempts(self) -> list[Attempt]:
        """Every attempt, in the order it started. Damaged lines are left out (see `damaged_lines`)."""
        return self._reader().attempts()

    def spend_by(self, key: str, *, run_id: str | None = None, profile: str | None = None) -> list[SpendRow]:
        """Totals by `run_id`, `stage`, `provider`, `profile`, `day` (UTC), `outcome` or `machine`."""
        return spend_rows(self._chosen(run_id, profile), key)

    def total_usd(self, *, run_id: str | None = None, profile: str | None = None) -> float:
        """Dollars of all attempts, or those of one run or one profile."""
        return sum(attempt.usd for attempt in self._chosen(run_id, profile))

    def damaged_lines(self) -> int:
        """Lines that fail their checksum: torn by a crash, flipped by a disk or edited by hand."""
        return self._reader().damaged_lines()

    def unpriced_attempts(self) -> int:
        """Attempts that damage left without a price: in no total, so whoever shows totals should say how many."""
        return self._reader().unpriced_attempts()

    def _reader(self) -> LedgerReader:
        return ledger_reader(self.path.absolute())

    def _chosen(self, run_id: str | None, profile: str | None) -> list[Attempt]:
        return [
            attempt
            for attempt in self.attempts()
            if (run_id is None or attempt.run_id == run_id) and (profile is None or attempt.profile == profile)
        ]

    def _beat(self, opened: OpenAttempt, stopped: threading.Event) -> None:
        failing = False
        while not stopped.wait(HEARTBEAT_SECONDS if failing else heartbeat_interval(opened.elapsed_seconds)):
            try:
                self._append(HEARTBEAT, opened, time.time(), elapsed=opened.elapsed_seconds)
                failing = False
            except Exception as error:  # noqa: BLE001 - a full disk now must not end the stage; the next beat tries again
                if not failing:
                    _log.warning("the ledger took no heartbeat, it is tried again: %s", error)
                failing = True

    def _end(self, opened: OpenAttempt, identity: Event, failure: BaseException | None) -> None:
        """Write `ended`; the stage's own error is never replaced by the ledger's."""
        elapsed, ended = opened.elapsed_seconds, time.time()
        for wait in (*END_RETRY_SECONDS, None):
            try:
                return self._append(ENDED, opened, ended, elapsed=elapsed, outcome=opened.outcome, **identity)
            except Exception as error:
                if wait is not None:
                    time.sleep(wait)
                    continue
                told = (
                    f"the ledger '{self.path}' could not note the end of stage '{identity['stage']}' "
                    f"({opened.outcome} after {elapsed:.1f} s): it is charged to its last heartbeat only"
                )
                if failure is None:
                    error.add_note(told)
                    raise
                failure.add_note(f"{told}: {error}")
                _log.error("%s: %s", told, error)

    def _append(self, event: str, opened: OpenAttempt, moment: float, **fields: Any) -> None:
        line = encode_event({"event": event, "attempt": opened.attempt_id, "time": moment, **fields})
        with explained_write_errors(self.path), _locked(self.path) as descriptor:
            _append_line(descriptor, line, self.path)


def heartbeat_interval(elapsed_seconds: float) -> float:
    """Seconds to the next heartbeat: dense at first, where an interval is much of the attempt, then sparser."""
    return HEARTBEAT_SECONDS if elapsed_seconds < DENSE_SECONDS else LATER_HEARTBEAT_SECONDS


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file open for reading and appending, with no other writer; one that was replaced meanwhile is reopened."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(path, descriptor):
                yield descriptor
                return
        finally:
            # A child that was forked just now has this lock too, until it is given up by name.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _append_line(descriptor: int, line: bytes, path: Path) -> None:
    """Write and sync a line, after sealing one torn by a crash; on an error the file is as it was before."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if end and os.pread(descriptor, 1, end - 1) != b"\n":
        line = b"\n" + line
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
        if not end:
            sync_directory(path.parent)  # the file is new: its name must survive a power cut too
    except OSError:
        with suppress(OSError):  # then the next append seals what was torn here
            os.ftruncate(descriptor, end)
        raise
