"""Totals by day, machine and outcome, and the days they are taken over."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.budget import SPEND_KEYS, Attempt, spend_rows
from infra.errors import ConfigurationError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0


def attempt(started: float = NOON, hours: float = 1.0, **fields: Any) -> Attempt:
    known: dict[str, Any] = {
        "attempt_id": "a", "run_id": "r", "profile": "p", "stage": "train", "provider": "lambda", "usd_per_hour": 2.0,
        "outcome": "completed", "machine": "desk",
    }  # fmt: skip
    return Attempt(**(known | fields), started=started, last_seen=started + hours * HOUR, elapsed_seconds=hours * HOUR)


def test_an_attempt_over_midnight_is_charged_to_each_day_what_that_day_took() -> None:
    rows = {row.key: row for row in spend_rows([attempt(hours=36)], "day")}
    assert {key: row.usd for key, row in rows.items()} == {"2026-03-01": 24.0, "2026-03-02": 48.0}
    assert [row.attempts for row in rows.values()] == [1, 1]
    (stage,) = spend_rows([attempt(hours=36)], "stage")
    assert (stage.attempts, stage.usd) == (1, 72.0)


def test_since_and_until_keep_the_seconds_of_those_days() -> None:
    attempts = [attempt(hours=36), attempt(NOON + 72 * HOUR)]
    (row,) = spend_rows(attempts, "stage", since=date(2026, 3, 2))
    assert (row.attempts, row.usd) == (2, 50.0)
    (row,) = spend_rows(attempts, "stage", until=date(2026, 3, 1))
    assert (row.attempts, row.usd) == (1, 24.0)
    assert spend_rows(attempts, "stage", since=date(2026, 4, 1)) == []


def test_what_failed_and_was_interrupted_is_wasted_what_runs_or_is_suspended_is_not() -> None:
    outcomes = ("completed", "failed", "interrupted", "suspended", "reused")
    attempts = [attempt(outcome=outcome) for outcome in outcomes]
    rows = {row.key: row.wasted_usd for row in spend_rows(attempts, "outcome", now=NOON + 99 * HOUR)}
    assert rows == {"completed": 0, "failed": 2.0, "interrupted": 2.0, "suspended": 0, "reused": 0}
    running = spend_rows([attempt(outcome="interrupted")], "outcome", now=NOON + HOUR + 10)
    assert [(row.key, row.wasted_usd) for row in running] == [("running", 0.0)]


def test_another_key_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigurationError, match="choose one of: run_id, stage"):
        spend_rows([], "colour")


@given(
    st.lists(
        st.builds(
            attempt,
            started=st.floats(0, 4e9),
            hours=st.floats(0, 200),
            stage=st.sampled_from("ab"),
            outcome=st.sampled_from(["completed", "failed", "interrupted", "suspended", "reused"]),
        ),
        max_size=6,
    )
)
def test_every_grouping_has_the_same_total(attempts: list[Attempt]) -> None:
    expected = sum(one.usd for one in attempts)
    for key in SPEND_KEYS:
        rows = spend_rows(attempts, key)
        assert sum(row.usd for row in rows) == pytest.approx(expected, abs=1e-6)
        assert sum(row.seconds for row in rows) == pytest.approx(sum(one.seconds for one in attempts), abs=1e-3)
        assert all(0 <= row.wasted_usd <= row.usd for row in rows)
