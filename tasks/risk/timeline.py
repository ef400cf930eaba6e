"""When each part of the project happens: activities, what they wait for, dates, milestones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from graphlib import CycleError, TopologicalSorter

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import ConfigurationError
from tasks.risk.model import RiskModel
from tasks.risk.result import RiskResult

#: Slack below this, an hour's thousandth, is rounding.
_NO_SLACK_HOURS = 1e-3


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Activity(_Plain):
    """Something that takes calendar time, after others have ended. milestone: what its end means, if it is one."""

    name: str
    hours: float = Field(ge=0)
    after: tuple[str, ...] = ()
    milestone: str | None = None


class Scheduled(_Plain):
    """An activity with its dates. critical: any delay of it delays the end. early, late: 5th and 95th percentile of its
    end, where a simulation told them."""

    name: str
    start: datetime
    finish: datetime
    critical: bool
    milestone: str | None = None
    early: datetime | None = None
    late: datetime | None = None


class Timeline(_Plain):
    """Activities in order of their start."""

    start: datetime
    activities: tuple[Scheduled, ...]

    @property
    def finish(self) -> datetime:
        """End of the last activity."""
        return max(activity.finish for activity in self.activities)

    @property
    def milestones(self) -> tuple[tuple[datetime, str], ...]:
        """Dates and what is reached, in their order."""
        found = [(activity.finish, activity.milestone) for activity in self.activities if activity.milestone]
        return tuple(sorted(found))


def schedule(activities: Sequence[Activity], start: datetime) -> Timeline:
    """Every activity as early as what it waits for allows (the critical path method).

    Raises ConfigurationError when one waits for an unknown activity, or for itself by way of others.
    """
    by_name = {activity.name: activity for activity in activities}
    order = _order(activities, by_name)
    ends: dict[str, float] = {}
    for name in order:
        begin = max((ends[earlier] for earlier in by_name[name].after), default=0.0)
        ends[name] = begin + by_name[name].hours
    total = max(ends.values())
    latest = dict.fromkeys(order, total)
    for name in reversed(order):
        for earlier in by_name[name].after:
            latest[earlier] = min(latest[earlier], latest[name] - by_name[name].hours)
    scheduled = [
        Scheduled(
            name=name,
            start=start + timedelta(hours=ends[name] - by_name[name].hours),
            finish=start + timedelta(hours=ends[name]),
            critical=latest[name] - ends[name] < _NO_SLACK_HOURS,
            milestone=by_name[name].milestone,
        )
        for name in order
    ]
    return Timeline(start=start, activities=tuple(sorted(scheduled, key=lambda one: one.start)))


def _order(activities: Sequence[Activity], by_name: dict[str, Activity]) -> list[str]:
    if not activities or len(by_name) < len(activities):
        raise ConfigurationError(
            "the timeline has no activities, or two of one name.", "give each activity a name of its own."
        )
    for activity in activities:
        unknown = [name for name in activity.after if name not in by_name]
        if unknown:
            raise ConfigurationError(
                f"activity '{activity.name}' waits for '{unknown[0]}', which is not in the timeline.",
                f"name one of: {', '.join(by_name)}.",
            )
    try:
        return list(TopologicalSorter({activity.name: activity.after for activity in activities}).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ConfigurationError(f"activities wait for each other: {circle}.", "remove one of these waits.") from error


def timeline_of(model: RiskModel, start: datetime, result: RiskResult | None = None) -> Timeline:
    """The model's phases and stages one after another, from `start`; the dates are the plan, with nothing going wrong.

    With a result of its simulation, each end has the 5th and 95th percentile beside it.
    """
    steps = [(phase.name, phase.hours.mean, f"{phase.name} done") for phase in model.preparation]
    steps += [(stage.name, stage.hours, f"{stage.name} trained") for stage in model.stages]
    steps += [(phase.name, phase.hours.mean, f"{phase.name} done") for phase in model.wrap_up]
    activities: list[Activity] = []
    earlier: tuple[str, ...] = ()
    for name, hours, milestone in steps:
        activities.append(Activity(name=name, hours=hours, after=earlier, milestone=milestone))
        earlier = (name,)
    timeline = schedule(activities, start)
    return timeline if result is None else _with_percentiles(timeline, result)


def _with_percentiles(timeline: Timeline, result: RiskResult) -> Timeline:
    ends = {step.name: step.finish_hours for step in result.steps}
    activities = tuple(
        activity.model_copy(
            update={
                "early": timeline.start + timedelta(hours=ends[activity.name].p05),
                "late": timeline.start + timedelta(hours=ends[activity.name].p95),
            }
        )
        for activity in timeline.activities
    )
    return timeline.model_copy(update={"activities": activities})
