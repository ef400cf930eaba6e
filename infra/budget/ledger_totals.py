"""Totals of the ledger by anything an attempt says of itself, over all time or some days of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from infra.budget.ledger_attempt import WASTED, Attempt
from infra.errors import ConfigurationError

#: What totals can be grouped by.
SPEND_KEYS = ("run_id", "stage", "provider", "profile", "day", "outcome", "machine")


@dataclass(frozen=True)
class SpendRow:
    """A total of the ledger by some key; `wasted_usd` is what failed and interrupted attempts took of it."""

    key: str
    attempts: int
    seconds: float
    usd: float
    wasted_usd: float = 0.0


@dataclass
class _Total:
    attempts: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    wasted_usd: float = 0.0


def spend_rows(
    attempts: Iterable[Attempt],
    key: str,
    *,
    since: date | None = None,
    until: date | None = None,
    now: float | None = None,
) -> list[SpendRow]:
    """Totals by one of SPEND_KEYS, in first-seen order.

    Days are UTC. An attempt that ran over midnight counts in each of its days with that day's
    seconds; since and until (both included) keep the seconds of those days alone. An attempt whose
    heartbeats still come at Unix time `now` (default: this moment) has outcome `running` and wastes
    nothing. Raises ConfigurationError for another key.
    """
    if key not in SPEND_KEYS:
        raise ConfigurationError(f"cannot add up by '{key}'.", f"choose one of: {', '.join(SPEND_KEYS)}.")
    moment = time.time() if now is None else now
    totals: dict[str, _Total] = {}
    for attempt in attempts:
        state = attempt.state(moment)
        counted: set[str] = set()
        for day, seconds in attempt.by_day():
            if (since is not None and day < since) or (until is not None and day > until):
                continue
            name = {"day": day.isoformat(), "outcome": state}.get(key) or str(getattr(attempt, key))
            total = totals.setdefault(name, _Total())
            total.attempts += name not in counted
            counted.add(name)
            usd = seconds / 3600 * attempt.usd_per_hour
            total.seconds += seconds
            total.usd += usd
            total.wasted_usd += usd if state in WASTED else 0.0
    return [SpendRow(name, one.attempts, one.seconds, one.usd, one.wasted_usd) for name, one in totals.items()]
