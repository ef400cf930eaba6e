"""The report's section on plan against actual: by stage, what it teaches, and what the budget guard was told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from tasks.reporting.blocks import Block, Section, Span, Spans, table
from tasks.reporting.formatting import dollars, number, percent
from tasks.reporting.plan_comparison import BudgetDecision, PlanComparison, PlannedStageSpend
from tasks.reporting.summary import RunSummary

_NOTE = (
    "The band is the plan's interval, the line in it the plan, the bar what all attempts of the stage took. "
    "Reused stages are left out."
)
_LESSON_NOTE = (
    "The factor is what estimates of this basis had to be multiplied with to be right in this run; "
    "what failed and interrupted attempts took is left out of it."
)


def plan_section(summary: RunSummary) -> Section | None:
    """None for a run that had neither a plan nor a decision."""
    plan, decisions = summary.plan, summary.decisions
    if plan is None and not decisions:
        return None
    blocks: list[Block] = []
    if plan is not None:
        blocks += _plan_blocks(plan)
    if decisions:
        blocks.append(table("Decisions of the budget guard", [_decision(one) for one in decisions]))
    return Section("plan", "Plan against actual", plan_sentence(plan) if plan else "", blocks)


def _plan_blocks(plan: PlanComparison) -> list[Block]:
    blocks: list[Block] = []
    drawn = [row for row in plan.rows if not row.reused]
    if drawn:
        blocks.append(Spans("Planned and spent, by stage", _spans(drawn), _NOTE))
    if plan.rows:
        blocks.append(table("In figures", [_figures(row) for row in plan.rows]))
        blocks.append(table("Time and attempts", [_times(row) for row in plan.rows], folded=True))
    if plan.lessons:
        rows = [
            {"plan made from": lesson.basis, "stages": lesson.stages, "planned_usd": lesson.planned_usd,
             "spent_usd": lesson.useful_usd, "factor": lesson.factor}
            for lesson in plan.lessons
        ]  # fmt: skip
        blocks.append(table("What it teaches the next plan", rows, note=_LESSON_NOTE))
    return blocks


def plan_sentence(plan: PlanComparison) -> str:
    """Planned, spent and how far apart, in one or two sentences; empty when nothing was planned."""
    if plan.ratio is None:
        return "Nothing that was planned to cost something was built in this run." if plan.rows else ""
    planned = sum(row.planned_usd or 0.0 for row in plan.compared)
    actual = sum(row.actual_usd for row in plan.compared)
    stages = len(plan.compared)
    said = (
        f"{dollars(planned)} planned and {dollars(actual)} spent on the {number(stages)} stages that were built"
        if stages > 1
        else f"{dollars(planned)} planned and {dollars(actual)} spent on the one stage that was built"
    )
    known = [row.is_within for row in plan.compared if row.is_within is not None]
    within = f" {sum(known)} of {len(known)} were within their interval." if len(known) > 1 else ""
    unplanned = f" {dollars(plan.unplanned_usd)} went to stages without a plan." if plan.unplanned_usd else ""
    wasted = f" {dollars(plan.wasted_usd)} went to attempts without a result." if plan.wasted_usd else ""
    return f"{said}: {_off(plan.ratio)}.{within}{unplanned}{wasted}"


def _off(ratio: float) -> str:
    """12.0% more than planned."""
    if abs(ratio - 1) < 0.0005:
        return "as planned"
    if ratio >= 3:
        return f"{ratio:.3g} times the plan"
    return f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'} than planned"


def _spans(rows: Sequence[PlannedStageSpend]) -> list[Span]:
    ends = [end for row in rows for end in (row.planned_high_usd, row.planned_usd, row.actual_usd) if end is not None]
    scale = 100 / (max(ends, default=0.0) or 1.0)
    return [_span(row, scale) for row in rows]


def _span(row: PlannedStageSpend, scale: float) -> Span:
    planned = row.planned_usd
    low, high = (planned if end is None else end for end in (row.planned_low_usd, row.planned_high_usd))
    tone = "warn" if row.is_within is False else "accent"
    return Span(
        label=row.title,
        value=dollars(row.actual_usd),
        length=row.actual_usd * scale,
        low=None if low is None else low * scale,
        high=None if high is None else high * scale,
        mark=None if planned is None else planned * scale,
        told="no plan" if planned is None else f"{dollars(planned)} planned",
        tone=tone,
    )


def _figures(row: PlannedStageSpend) -> dict[str, Any]:
    return {
        "stage": row.title,
        "planned_usd": row.planned_usd,
        "interval": _interval(row),
        "spent_usd": row.actual_usd,
        "ratio": row.ratio,
        "plan made from": row.basis,
        "outcome": row.state,
    }


def _interval(row: PlannedStageSpend) -> str | None:
    if row.planned_low_usd is None or not row.planned_high_usd:
        return None
    return f"{dollars(row.planned_low_usd)} to {dollars(row.planned_high_usd)}"


def _times(row: PlannedStageSpend) -> dict[str, Any]:
    return {
        "stage": row.title,
        "planned_seconds": row.planned_seconds,
        "spent_seconds": row.actual_seconds,
        "attempts": row.attempts,
        "without a result_usd": row.wasted_usd,
    }


def _decision(one: BudgetDecision) -> dict[str, Any]:
    return {"time (UTC)": f"{one.time.astimezone(UTC):%Y-%m-%d %H:%M}", "question": one.question, "answer": one.answer}
