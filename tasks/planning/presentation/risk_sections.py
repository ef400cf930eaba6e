"""The report's sections that rest on the simulation: risk, budgets, timeline, return."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.presentation.cost_tables import money, wall_clock
from tasks.planning.presentation.findings import ASSUMED_CALIBRATION_ERROR, Findings
from tasks.planning.presentation.report_table import ReportTable, markdown_table
from tasks.planning.presentation.risk_tables import (
    chance_text,
    mean_parts,
    milestones,
    mitigation_table,
    returns_table,
    risk_table,
    sensitivity_table,
    tier_table,
    timeline_table,
)
from tasks.planning.presentation.sections import picture, section
from tasks.reporting.formatting import percent
from tasks.risk import RiskEvent

#: A budget that is enough so often is recommended.
_CONFIDENT = 0.9


def risk_section(findings: Findings, plots: Sequence[str]) -> str:
    """The distribution, the events in it, what it depends on and what measures are worth."""
    risk = findings.risk
    parts = mean_parts(risk.project)
    whole = sum(parts.values())
    made_of = ReportTable(
        "mean-parts",
        "What the expected cost is made of",
        ("part", "USD", "share"),
        (*((name, money(usd), percent(usd / whole)) for name, usd in parts.items()), ("all", money(whole), "100%")),
        emphasised=frozenset({len(parts)}),
    )
    tables = [made_of, sensitivity_table(findings.sensitivity), mitigation_table(findings.mitigations)]
    return section(
        "Risk",
        markdown_table(risk_table(risk)),
        *_events(findings),
        picture("Distribution of the cost", "risk-cost.png", plots),
        *(f"### {table.title}\n\n{markdown_table(table)}" for table in tables),
        f"A calibration is taken to know the MFU within {percent(ASSUMED_CALIBRATION_ERROR)} where none was made yet.",
        picture("What the cost depends on", "risk-tornado.png", plots),
    )


def _events(findings: Findings) -> list[str]:
    events = findings.risk.project.model.events
    if not events:
        return []
    lines = [f"- {event.name}, {percent(event.probability)} likely: {_effects(event)}" for event in events]
    said = "Events of the founding report (stated), their dollars and delays in proportion to the training:"
    return [said, "\n".join(lines)]


def _effects(event: RiskEvent) -> str:
    """What an event does on average, where it does anything."""
    extra, cost, delay = event.extra_training.mean, event.usd.mean, event.delay_hours.mean
    effects = [f"{extra:.0%} more training" if extra else "", money(cost) if cost else ""]
    effects.append(f"{wall_clock(delay)} of delay" if delay else "")
    return ", ".join(filter(None, effects)) or "nothing"


def budget_section(findings: Findings) -> str:
    """Three budgets, each with its chance of being enough."""
    if not findings.risk.tiers:
        return ""
    lines = [
        f"- **{tier.tier}**: {money(tier.budget_usd)} is enough with a probability of {chance_text(tier.probability)} "
        f"({tier.meaning}; the option expects {money(tier.result.cost_usd.mean)}). "
        f"Ask for {money(tier.result.cost_usd.p95)} to have enough in 19 of 20 cases."
        for tier in findings.risk.tiers
    ]
    return section("Budgets", markdown_table(tier_table(findings.risk)), "\n".join(lines), _advice(findings))


def _advice(findings: Findings) -> str:
    """The smallest of the budgets that is enough nine times in ten."""
    enough = [tier for tier in findings.risk.tiers if tier.probability >= _CONFIDENT]
    if not enough:
        return f"None of them is enough with a probability of {percent(_CONFIDENT)}: ask for more, or plan less."
    tier = min(enough, key=lambda tier: tier.budget_usd)
    return (
        f"**Recommended: {tier.tier}, {money(tier.budget_usd)}** on {tier.option}: the smallest of the three that is "
        f"enough with a probability of at least {percent(_CONFIDENT)}."
    )


def timeline_section(findings: Findings, plots: Sequence[str]) -> str:
    """Dates, milestones and how late it may become."""
    finish = findings.risk.project.finish_hours
    luck = (
        f"Done after {wall_clock(finish.p50)} with a probability of one half, after {wall_clock(finish.p95)} with one "
        "of 95%."
    )
    return section(
        "Timeline",
        markdown_table(timeline_table(findings.timeline)),
        luck,
        "Milestones:",
        "\n".join(f"- {line}" for line in milestones(findings.timeline)),
        picture("Timeline", "timeline.png", plots),
    )


def return_section(findings: Findings, plots: Sequence[str]) -> str:
    """Return and break-even, from a stated value."""
    returns = findings.returns
    stated = (
        f"Stated: the trained model is worth {money(returns.investment.annual_value_usd)} a year "
        f"({findings.project.source}). Computed: the project is expected to cost {money(returns.investment.usd)}."
    )
    months = returns.break_even_months
    even = "It never breaks even." if months is None else f"It breaks even {months:,.1f} months after its start."
    return section(
        "Return and break-even",
        stated,
        markdown_table(returns_table(returns)),
        even,
        picture("Return", "returns.png", plots),
    )
