"""Which options of a plan to show and to recommend: the cheapest, the fastest, the Pareto front, the best of a kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.planning.plan import BudgetPlan, Option

#: Providers with enterprise contracts and many regions: what the founding report calls maximum reliability.
LARGE_PROVIDERS = ("aws", "gcp", "azure")
MACHINE = "this machine"


@dataclass(frozen=True)
class Choices:
    """The options worth naming. `recommended` is the cheapest of those that miss the fewest limits, at best none."""

    recommended: Option
    cheapest: Option
    fastest: Option
    meets_limits: bool


def choices(plan: BudgetPlan) -> Choices | None:
    """The options to name first; None when no option fits the model at all."""
    usable = plan.usable()
    if not usable:
        return None
    recommended = min(usable, key=lambda option: _rank(plan, option))
    return Choices(
        recommended=recommended,
        cheapest=min(usable, key=_by_cost),
        fastest=min(usable, key=lambda option: (option.training_hours, option.usd, option.name)),
        meets_limits=within_limits(plan, recommended),
    )


def within_limits(plan: BudgetPlan, option: Option) -> bool:
    """Whether the option keeps to the request's budget and deadline; what is not limited is kept."""
    return not missed_limits(plan, option)


def missed_limits(plan: BudgetPlan, option: Option) -> tuple[str, ...]:
    """Which of `budget` and `deadline` the option misses."""
    budget, deadline = plan.request.budget_usd, plan.request.deadline_hours
    missed = {
        "budget": budget is not None and option.usd > budget,
        "deadline": deadline is not None and option.training_hours > deadline,
    }
    return tuple(name for name, is_missed in missed.items() if is_missed)


def provider_of(option: Option) -> str:
    """Who is paid."""
    return MACHINE if option.offer is None else option.offer.provider


def variant_of(option: Option) -> str:
    """How it is bought; a machine that was measured is owned."""
    return "own" if option.offer is None else option.offer.variant


def best_of_each(plan: BudgetPlan) -> list[Option]:
    """For each provider and way of buying its cheapest usable option of those that miss the fewest limits. By cost."""
    best: dict[tuple[str, str], Option] = {}
    for option in plan.usable():
        key = (provider_of(option), variant_of(option))
        present = best.get(key)
        if present is None or _rank(plan, option) < _rank(plan, present):
            best[key] = option
    return sorted(best.values(), key=_by_cost)


def pareto_front(options: Iterable[Option]) -> list[Option]:
    """Options that no other beats in both cost and time; from the cheapest to the fastest."""
    front: list[Option] = []
    for option in sorted(options, key=lambda option: (option.usd, option.training_hours, option.name)):
        if not front or option.training_hours < front[-1].training_hours:
            front.append(option)
    return front


def cheapest_where(plan: BudgetPlan, variants: Sequence[str], providers: Sequence[str] | None = None) -> Option | None:
    """The cheapest usable option bought in one of these ways, from one of these providers (None: any), if there is one.

    Options that miss fewer limits come before others.
    """
    found = [
        option
        for option in plan.usable()
        if variant_of(option) in variants and (providers is None or provider_of(option) in providers)
    ]
    return min(found, key=lambda option: _rank(plan, option), default=None)


def _by_cost(option: Option) -> tuple[float, float, str]:
    return (option.usd, option.training_hours, option.name)


def _rank(plan: BudgetPlan, option: Option) -> tuple[int, float, float, str]:
    return (len(missed_limits(plan, option)), *_by_cost(option))
