"""A plan in five lines: what is trained, the cheapest way, the fastest way, and whether the money and the time do."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.planning.plan import BudgetPlan, Option
from tasks.planning.presentation.choices import cheapest_where, choices, variant_of, within_limits
from tasks.planning.presentation.cost_tables import money, wall_clock
from tasks.planning.presentation.plan_risk import PlanRisk
from tasks.planning.presentation.risk_tables import chance_text
from tasks.reporting.formatting import count


@dataclass(frozen=True)
class Headline:
    """One sentence each; `lines` are (label, sentence), in the order of reading."""

    what: str
    lines: tuple[tuple[str, str], ...]
    is_good: bool  # something fits, within the limits asked for


def headline(plan: BudgetPlan, risk: PlanRisk | None = None) -> Headline:
    """The answer before the tables."""
    named = choices(plan)
    what = (
        f"{plan.request.profile}: {count(plan.parameters.total)} parameters, "
        f"{count(plan.request.training_tokens)} tokens, {plan.total_flops:.2e} FLOPs"
    )
    if named is None:
        return Headline(what, (("Nothing fits", _why_nothing(plan)), *_remedies(plan)), False)
    lines = [("Recommended" if named.meets_limits else "Closest", _sentence(named.recommended))]
    if named.cheapest.name != named.recommended.name:
        lines.append(("Cheapest", _sentence(named.cheapest)))
    if named.fastest.name != named.recommended.name:
        lines.append(("Fastest", _sentence(named.fastest)))
    steady = cheapest_where(plan, ("on-demand",))
    if variant_of(named.recommended) == "spot" and steady is not None and steady.name != named.fastest.name:
        lines.append(("On demand", _sentence(steady)))
    lines += [*_limits(plan, named.meets_limits), *_remedies(plan)]
    if risk is not None:
        lines.append(("Risk", _risk(risk)))
    return Headline(what, tuple(lines), named.meets_limits)


def _sentence(option: Option) -> str:
    where = option.name if option.offer is None else f"{option.name} ({_gpus(option.gpus)})"
    return f"{money(option.usd)} and {wall_clock(option.training_hours)} on {where}"


def _gpus(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _limits(plan: BudgetPlan, met: bool) -> list[tuple[str, str]]:
    budget, deadline = plan.request.budget_usd, plan.request.deadline_hours
    asked = [f"{money(budget)}" if budget is not None else "", f"{wall_clock(deadline)}" if deadline else ""]
    limits = " and ".join(filter(None, asked))
    if not limits:
        return []
    if not met:
        return [("Limits", f"no option keeps to {limits}")]
    within = sum(within_limits(plan, option) for option in plan.usable())
    return [("Limits", f"{limits}: kept by {within} of {len(plan.usable())} options")]


def _remedies(plan: BudgetPlan) -> list[tuple[str, str]]:
    return [("It would do" if number == 0 else "or", remedy.text) for number, remedy in enumerate(plan.remedies)]


def _why_nothing(plan: BudgetPlan) -> str:
    if not plan.rejections:
        return "the price catalog has no offer that this model can be placed on."
    first = plan.rejections[0]
    return f"{first.option}: {'; '.join(first.reasons)}"


def _risk(risk: PlanRisk) -> str:
    cost = risk.infrastructure.cost_usd
    sentence = f"half the time above {money(cost.p50)}, one time in twenty above {money(cost.p95)}"
    for chance in risk.infrastructure.budgets:
        sentence += f"; within {money(chance.limit)}: {chance_text(chance.probability)}"
    for chance in risk.infrastructure.deadlines:
        sentence += f"; trained within {wall_clock(chance.limit)}: {chance_text(chance.probability)}"
    return sentence
