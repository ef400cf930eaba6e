"""Dates by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from infra.errors import ConfigurationError
from tasks.risk import Activity, Fixed, Phase, risk_model_of, schedule, simulate, timeline_of

START = datetime(2026, 12, 1)
WEEK = 168.0


def activity(name: str, hours: float, *after: str) -> Activity:
    return Activity(name=name, hours=hours, after=after)


def test_the_founding_plan_takes_six_weeks() -> None:
    model = risk_model_of(
        "founding", {"foundation": WEEK, "scaling": WEEK, "long": WEEK}, 12.0,
        preparation=(Phase(name="implementation", hours=Fixed(value=2 * WEEK)),),
    )  # fmt: skip
    found = timeline_of(model, START)
    assert found.finish == START + timedelta(weeks=6)
    assert [one.name for one in found.activities] == ["implementation", "foundation", "scaling", "long", "validation"]
    assert all(one.critical for one in found.activities)
    assert found.milestones[1] == (START + timedelta(weeks=3), "foundation trained")


def test_the_longer_way_is_critical() -> None:
    found = schedule(
        [
            activity("training", 10, "code", "data"),
            activity("code", 5),
            activity("data", 2),
            activity("report", 1, "code"),
        ],
        START,
    )
    begins = {one.name: (one.start - START).total_seconds() / 3600 for one in found.activities}
    assert begins == {"code": 0, "data": 0, "report": 5, "training": 5}
    assert {one.name for one in found.activities if one.critical} == {"code", "training"}
    assert found.finish == START + timedelta(hours=15)
    assert found.milestones == ()


def test_percentiles_stand_around_the_dates() -> None:
    model = risk_model_of("x", {"a": 100.0, "b": 200.0}, 12.0)
    result = simulate(model, 2000)
    found = timeline_of(model, START, result)
    for one in found.activities:
        assert one.early is not None
        assert one.late is not None
        assert one.early <= one.finish <= one.late
    assert found.activities[-1].late == START + timedelta(hours=result.finish_hours.p95)


@pytest.mark.parametrize(
    ("activities", "message"),
    [
        ([], "no activities"),
        ([activity("a", 1), activity("a", 2)], "two of one name"),
        ([activity("a", 1, "b")], "waits for 'b'"),
        ([activity("a", 1, "b"), activity("b", 1, "a")], "wait for each other"),
    ],
)
def test_impossible_timelines_are_refused(activities: list[Activity], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        schedule(activities, START)
