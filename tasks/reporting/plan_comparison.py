"""What a run was planned to cost against what it cost, stage by stage, and what the next plan learns from it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from infra.budget import Attempt

_NOT_A_METRIC_NAME = re.compile(r"[^\w\-. ]+")


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedStageSpend(_Figures):
    """One stage: planned before the run, and paid by all its attempts in this run."""

    stage: str = Field(description="stage name as the ledger writes it")
    title: str = Field(description="name for people")
    planned_usd: float | None = Field(default=None, ge=0, description="None when nothing was known of this stage")
    planned_low_usd: float | None = Field(default=None, ge=0, description="lower end of the plan's interval")
    planned_high_usd: float | None = Field(default=None, ge=0, description="upper end of the plan's interval")
    planned_seconds: float | None = Field(default=None, ge=0)
    basis: str = Field(default="", description="what the plan was made from: a calibration, the last run, a formula")
    actual_usd: float = Field(default=0.0, ge=0, description="every attempt, failed ones too")
    actual_seconds: float = Field(default=0.0, ge=0)
    attempts: int = Field(default=0, ge=0)
    wasted_usd: float = Field(default=0.0, ge=0, description="what failed and interrupted attempts took of it")
    reused: bool = Field(default=False, description="the artifact was already there")
    finished: bool = Field(default=True, description="an attempt of this run came to its end")
    changed: bool = Field(default=False, description="the stage's work was changed after it was planned (shortened)")

    @property
    def state(self) -> str:
        """What became of the stage, in a word."""
        if self.reused:
            return "reused"
        if not self.attempts:
            return "not run"
        if not self.finished:
            return "not finished"
        return "shortened" if self.changed else "built"

    @property
    def is_comparable(self) -> bool:
        """Whether plan and actual are about the same work: it was planned to cost something, and just that was done."""
        return bool(self.planned_usd) and self.state == "built"

    @property
    def ratio(self) -> float | None:
        """Actual over planned; None where they cannot be compared."""
        return self.actual_usd / self.planned_usd if self.is_comparable and self.planned_usd else None

    @property
    def is_within(self) -> bool | None:
        """Whether the actual cost is inside the plan's interval; None where there is none or nothing to compare."""
        if not self.is_comparable or self.planned_low_usd is None or self.planned_high_usd is None:
            return None
        return self.planned_low_usd <= self.actual_usd <= self.planned_high_usd


class BasisLesson(_Figures):
    """What the plan's figures of one basis must be multiplied with to have been right in this run."""

    basis: str
    stages: int
    planned_usd: float
    useful_usd: float = Field(description="actual without what failed and interrupted attempts took")
    factor: float = Field(description="useful_usd over planned_usd")


class PlanComparison(_Figures):
    """Plan and actual of a whole run. Totals with 'compared' are over the stages where both are known."""

    rows: list[PlannedStageSpend] = Field(default_factory=list)
    planned_low_usd: float | None = Field(default=None, ge=0, description="of the whole run, as it was forecast")
    planned_high_usd: float | None = Field(default=None, ge=0, description="of the whole run, as it was forecast")

    @property
    def planned_usd(self) -> float:
        """All stages that had a plan."""
        return sum(row.planned_usd or 0.0 for row in self.rows)

    @property
    def actual_usd(self) -> float:
        """All stages and attempts of this run."""
        return sum(row.actual_usd for row in self.rows)

    @property
    def wasted_usd(self) -> float:
        """What failed and interrupted attempts took."""
        return sum(row.wasted_usd for row in self.rows)

    @property
    def unplanned_usd(self) -> float:
        """Spent on stages of which nothing was known before."""
        return sum(row.actual_usd for row in self.rows if row.planned_usd is None)

    @property
    def compared(self) -> list[PlannedStageSpend]:
        """The stages where plan and actual are about the same work."""
        return [row for row in self.rows if row.is_comparable]

    @property
    def ratio(self) -> float | None:
        """Actual over planned dollars of the compared stages; None when there is none."""
        planned = sum(row.planned_usd or 0.0 for row in self.compared)
        return sum(row.actual_usd for row in self.compared) / planned if planned else None

    @property
    def lessons(self) -> list[BasisLesson]:
        """The correction factor of each basis: useful over planned dollars of its stages together."""
        by_basis: dict[str, list[PlannedStageSpend]] = {}
        for row in self.compared:
            by_basis.setdefault(row.basis, []).append(row)
        return [_lesson(basis, rows) for basis, rows in by_basis.items()]


class BudgetDecision(_Figures):
    """A question of the budget guard and its answer."""

    time: datetime = Field(description="of the answer, with its time zone")
    question: str
    answer: str


class Estimate(Protocol):
    """What a plan says of a stage; an estimate of tasks.forecasting is one."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def usd(self) -> float: ...
    @property
    def low_usd(self) -> float: ...
    @property
    def high_usd(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def basis(self) -> str: ...


def compare_plan(
    planned: Iterable[Estimate],
    attempts: Iterable[Attempt],
    *,
    reused: Collection[str] = (),
    changed: Collection[str] = (),
    titles: dict[str, str] | None = None,
    low_usd: float | None = None,
    high_usd: float | None = None,
) -> PlanComparison:
    """Set a plan beside the attempts of one run.

    planned: one estimate a stage, in run order. attempts: those of this run alone. reused: names of
    the stages whose artifact was there. changed: names of those that were shortened after the plan,
    which is no longer about them. titles: names for people of stages that have no estimate.
    low_usd, high_usd: the interval of the whole plan.
    """
    estimates = {estimate.name: estimate for estimate in planned}
    by_stage: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_stage.setdefault(attempt.stage, []).append(attempt)
    names = dict.fromkeys([*estimates, *by_stage])
    rows = [
        _row(name, (titles or {}).get(name, name), estimates.get(name), by_stage.get(name, [])).model_copy(
            update={"reused": name in reused, "changed": name in changed}
        )
        for name in names
    ]
    return PlanComparison(rows=rows, planned_low_usd=low_usd, planned_high_usd=high_usd)


def plan_metrics(comparison: PlanComparison) -> dict[str, float]:
    """The comparison as flat figures for the parent run in MLflow, where runs are compared."""
    figures: dict[str, float | None] = {
        "plan/usd": comparison.planned_usd,
        "plan/low_usd": comparison.planned_low_usd,
        "plan/high_usd": comparison.planned_high_usd,
        "plan/actual_over_planned": comparison.ratio,
        "plan/unplanned_usd": comparison.unplanned_usd,
        "plan/wasted_usd": comparison.wasted_usd,
    }
    for row in comparison.rows:
        stage = _NOT_A_METRIC_NAME.sub("_", row.stage)
        figures[f"plan/{stage}/planned_usd"] = row.planned_usd
        figures[f"plan/{stage}/actual_usd"] = row.actual_usd
        figures[f"plan/{stage}/actual_over_planned"] = row.ratio
    for lesson in comparison.lessons:
        figures[f"plan/factor/{_NOT_A_METRIC_NAME.sub('_', lesson.basis) or 'unknown'}"] = lesson.factor
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}


def _row(name: str, title: str, estimate: Estimate | None, attempts: Sequence[Attempt]) -> PlannedStageSpend:
    actual = PlannedStageSpend(
        stage=name,
        title=title,
        actual_usd=sum(attempt.usd for attempt in attempts),
        actual_seconds=sum(attempt.seconds for attempt in attempts),
        wasted_usd=sum(attempt.wasted_usd for attempt in attempts),
        attempts=len(attempts),
        finished=any(attempt.outcome in ("completed", "reused") for attempt in attempts),
    )
    if estimate is None:
        return actual
    planned = {
        "title": estimate.title,
        "planned_usd": estimate.usd,
        "planned_low_usd": estimate.low_usd,
        "planned_high_usd": estimate.high_usd,
        "planned_seconds": estimate.seconds,
        "basis": str(estimate.basis),
    }
    return actual.model_copy(update=planned)


def _lesson(basis: str, rows: Sequence[PlannedStageSpend]) -> BasisLesson:
    planned = sum(row.planned_usd or 0.0 for row in rows)
    useful = max(0.0, sum(row.actual_usd - row.wasted_usd for row in rows))
    return BasisLesson(basis=basis, stages=len(rows), planned_usd=planned, useful_usd=useful, factor=useful / planned)
