"""The risk of a plan in tables: the distribution, the tiers, what matters, the timeline, the return."""

from __future__ import annotations

from datetime import datetime

from tasks.planning.presentation.cost_tables import money, wall_clock
from tasks.planning.presentation.plan_risk import PlanRisk
from tasks.planning.presentation.project import ProjectInputs
from tasks.planning.presentation.report_table import ReportTable
from tasks.reporting.formatting import percent
from tasks.risk import RiskResult, Summary
from tasks.risk.mitigations import MitigationValue
from tasks.risk.returns import Returns
from tasks.risk.sensitivity import Sensitivity
from tasks.risk.timeline import Timeline


def risk_table(risk: PlanRisk) -> ReportTable:
    """Cost and time, of what is rented and of the whole project, at five points of their distributions."""
    parts = {
        "rented, USD": _dollars(risk.infrastructure.cost_usd),
        "with people's work, USD": _dollars(risk.project.cost_usd),
        "training, time": _times(risk.infrastructure.finish_hours),
        "project, time": _times(risk.project.finish_hours),
    }
    if risk.infrastructure.model.interruptions is not None:
        count = risk.infrastructure.interruptions
        parts["preemptions"] = tuple(f"{value:,.0f}" for value in _points(count))
    return ReportTable(
        key="risk",
        title=f"Risk on {risk.option}, {risk.infrastructure.draws:,} draws",
        columns=("", "mean", "5%", "25%", "half", "75%", "95%"),
        rows=tuple((name, *cells) for name, cells in parts.items()),
        note="Of 100 such projects, so many stay at or below the figure. Uncertain: MFU, prices, people's work, "
        "failures, preemptions.",
    )


def _points(summary: Summary) -> tuple[float, ...]:
    return (summary.mean, summary.p05, summary.p25, summary.p50, summary.p75, summary.p95)


def _dollars(summary: Summary) -> tuple[str, ...]:
    return tuple(money(value) for value in _points(summary))


def _times(summary: Summary) -> tuple[str, ...]:
    return tuple(wall_clock(value) for value in _points(summary))


def chance_text(probability: float) -> str:
    """A simulated probability; never quite certain, because draws are not."""
    if probability > 0.999:
        return "over 99.9%"
    return "under 0.1%" if probability < 0.001 else percent(probability)


def tier_table(risk: PlanRisk) -> ReportTable:
    """The three budgets: what each buys, how likely it is enough, and what would be."""
    rows = [
        (
            tier.tier,
            f"{tier.meaning}: {tier.option}",
            money(tier.result.cost_usd.mean),
            money(tier.budget_usd),
            chance_text(tier.probability),
            money(tier.result.cost_usd.p75),
            money(tier.result.cost_usd.p95),
        )
        for tier in risk.tiers
    ]
    return ReportTable(
        key="tiers",
        title="Budgets for the whole project",
        columns=("tier", "option", "expected", "asked for", "P(enough)", "enough in 3 of 4", "in 19 of 20"),
        rows=tuple(rows),
        words=("option",),
    )


_FIGURE_TITLES = {
    "mfu": "MFU achieved over planned",
    "price": "price paid over planned",
    "interruption rate": "preemptions an hour",
}


def figure_title(name: str) -> str:
    """An uncertain figure's name as people write it: `event/training failure` is the event itself."""
    if name in _FIGURE_TITLES:
        return _FIGURE_TITLES[name]
    kind, _, rest = name.partition("/")
    if kind != "event":
        return rest if kind in ("line", "phase") else name
    event, _, effect = rest.partition("/")
    return event + {"extra": ": extra training", "delay": ": delay", "usd": ": its own cost"}.get(effect, "")


def sensitivity_table(found: Sensitivity, rows: int = 10) -> ReportTable:
    """What each uncertain figure does to the cost, the widest first."""
    return ReportTable(
        key="sensitivity",
        title="What the cost depends on",
        columns=("figure", "10%", "90%", "cost at 10%", "cost at 90%", "share of the variance"),
        rows=tuple(
            (
                figure_title(swing.name),
                _plain(swing.low),
                _plain(swing.high),
                money(swing.at_low),
                money(swing.at_high),
                percent(swing.variance_share),
            )
            for swing in found.swings[:rows]
        ),
        note="Each figure at its 10th and 90th percentile (an event: does not and does happen), all others at their "
        "means.",
    )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def mitigation_table(values: tuple[MitigationValue, ...]) -> ReportTable:
    """What each measure saves."""
    return ReportTable(
        key="mitigations",
        title="What measures are worth",
        columns=("measure", "saves on average", "of the 95% budget", "time"),
        rows=tuple(
            (value.name, _signed(value.saved_usd), _signed(value.saved_p95_usd), f"{value.saved_hours:+,.0f} h")
            for value in values
        ),
        note="On the same draws with and without the measure. Upper bounds: each is taken to remove its risk whole and "
        "to cost nothing itself.",
    )


def _signed(usd: float) -> str:
    return f"-{money(-usd)}" if usd < 0 else money(usd)


def timeline_table(timeline: Timeline) -> ReportTable:
    """Activities with their dates, and when each ends in good and bad luck."""
    return ReportTable(
        key="timeline",
        title="Timeline",
        columns=("activity", "start", "planned end", "5%", "95%"),
        rows=tuple(
            (one.name, _day(one.start), _day(one.finish), _day(one.early), _day(one.late))
            for one in timeline.activities
        ),
        note=f"From {_day(timeline.start)} on, one after another.",
        words=("start", "planned end", "5%", "95%"),
    )


def _day(when: datetime | None) -> str:
    return "–" if when is None else when.strftime("%Y-%m-%d")


def people_table(project: ProjectInputs) -> ReportTable:
    """The stated lines."""
    rows = [(name, money(usd)) for name, usd in project.people_usd.items()]
    rows.append(("all", money(sum(project.people_usd.values()))))
    return ReportTable(
        key="people",
        title="Development and validation",
        columns=("line", "USD"),
        rows=tuple(rows),
        note=f"Stated, not computed: {project.source}.",
        emphasised=frozenset({len(rows) - 1}),
    )


def returns_table(returns: Returns) -> ReportTable:
    """What came back after so many years."""
    return ReportTable(
        key="returns",
        title="Return on the expected cost of the project",
        columns=("after", "return", "net present value", "value a year that breaks even"),
        rows=tuple(
            (
                f"{horizon.years:g} year{'s' if horizon.years != 1 else ''}",
                f"{horizon.return_on_investment:+.0%}",
                _signed(horizon.net_present_value_usd),
                "–" if horizon.break_even_annual_value_usd is None else money(horizon.break_even_annual_value_usd),
            )
            for horizon in returns.horizons
        ),
    )


def milestones(timeline: Timeline) -> list[str]:
    """Dates and what is reached."""
    return [f"{_day(when)}: {what}" for when, what in timeline.milestones]


def mean_parts(result: RiskResult) -> dict[str, float]:
    """What the mean cost is made of, with names as people write them; the largest first."""
    named = {figure_title(name): usd for name, usd in result.mean_parts_usd.items() if usd}
    return dict(sorted(named.items(), key=lambda part: -part[1]))
