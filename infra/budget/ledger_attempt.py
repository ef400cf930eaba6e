"""One attempt of one stage: what is fixed when it starts, how long it took, how it ended."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal

#: 'interrupted': stopped from outside (Ctrl-C, SIGTERM) or never closed (kill -9, power cut).
#: 'suspended': stopped on purpose with its work kept, to be continued.
Outcome = Literal["completed", "failed", "interrupted", "suspended", "reused"]
#: Ends that left no result. What a later attempt took over from their checkpoints is not subtracted.
WASTED: tuple[Outcome, ...] = ("failed", "interrupted")
#: What is shown in place of 'interrupted' while heartbeats still come.
RUNNING = "running"
CURRENCY = "USD"
MACHINE_VARIABLE = "SAM2_MACHINE"
DAY_SECONDS = 86_400
_STILL_RUNNING_SECONDS = 45.0


def machine_name() -> str:
    """SAM2_MACHINE, or `host-` and six digits of the host name's hash: ledgers are shared, host names need not be."""
    named = os.environ.get(MACHINE_VARIABLE, "").strip()
    return named or f"host-{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Attempt:
    """One attempt of one stage, as the ledger tells it. Times are Unix seconds.

    Price, provider, machine and currency are those of the time of the attempt: a price that is
    changed later does not change what was paid.
    """

    attempt_id: str
    run_id: str
    profile: str
    stage: str
    provider: str
    usd_per_hour: float
    started: float
    last_seen: float
    outcome: Outcome
    machine: str = ""  # ledgers from before machines were recorded
    currency: str = CURRENCY
    elapsed_seconds: float | None = None  # by the monotonic clock; None in ledgers from before it was recorded

    @property
    def seconds(self) -> float:
        """Measured by the monotonic clock, which no change of the wall clock moves (nor a laptop's sleep)."""
        if self.elapsed_seconds is not None:
            return max(0.0, self.elapsed_seconds)
        return max(0.0, self.last_seen - self.started)

    @property
    def usd(self) -> float:
        return self.seconds / 3600 * self.usd_per_hour

    @property
    def wasted_usd(self) -> float:
        """Its dollars when it ended without a result, else nothing."""
        return self.usd if self.outcome in WASTED else 0.0

    @property
    def day(self) -> str:
        """UTC day the attempt started, YYYY-MM-DD."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.started))

    def state(self, now: float) -> str:
        """The outcome, or `running` for an open attempt whose last heartbeat is recent at Unix time `now`."""
        open_still = self.outcome == "interrupted" and abs(now - self.last_seen) < _STILL_RUNNING_SECONDS
        return RUNNING if open_still else self.outcome

    def by_day(self) -> Iterator[tuple[date, float]]:
        """The UTC days the attempt ran on, with the seconds of each; a short attempt is one day with its seconds."""
        begin, end = self.started, self.started + self.seconds
        while True:
            midnight = (begin // DAY_SECONDS + 1) * DAY_SECONDS
            yield datetime.fromtimestamp(begin, UTC).date(), min(end, midnight) - begin
            if end <= midnight:
                return
            begin = midnight


@dataclass
class OpenAttempt:
    """A running attempt; set `outcome` to 'reused' when nothing had to be done, to 'suspended' before stopping."""

    attempt_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    outcome: Outcome = "completed"
    _began: float = field(default_factory=lambda: time.monotonic(), init=False)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the attempt began, by the monotonic clock."""
        return time.monotonic() - self._began

    def note_error(self, error: BaseException) -> None:
        """Set the outcome that an exception means; a suspension, which also ends in one, stays what it is."""
        if self.outcome != "suspended":
            self.outcome = "failed" if isinstance(error, Exception) else "interrupted"
