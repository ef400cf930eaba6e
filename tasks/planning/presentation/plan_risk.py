"""A plan's option under the risk model: how likely its money lasts, and for which budget it would.

Two simulations, on the same luck: of the infrastructure alone, which is what `--budget-usd` limits, and of the project
with the people's work that `ProjectInputs` states. The contingency is in neither: it is the plan's one figure for what
the distribution says in full.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from model.sizing import Rates
from tasks.planning.plan import BudgetPlan, Option
from tasks.planning.presentation.choices import LARGE_PROVIDERS, cheapest_where, choices
from tasks.planning.presentation.project import ProjectInputs
from tasks.risk import (
    SEED_EVENTS,
    Distribution,
    Fixed,
    Interruptions,
    Lognormal,
    Phase,
    RiskEvent,
    RiskModel,
    RiskResult,
    risk_model_of,
    scaled,
    simulate,
    spot_interruptions,
)
from tasks.risk.defaults import ASSUMED_MFU_RATIO, ASSUMED_PRICE_RATIO
from tasks.risk.model import HOURS_PER_WEEK

DRAWS = 20_000
#: Of the training that the founding report's risks are about: 5.5B parameters on 136B tokens, 6 FLOPs each.
FOUNDING_FLOPS = 6 * 5.5e9 * 136e9
_RENTED = ("evaluation_usd", "quantization_usd", "preprocessing_usd", "storage_usd", "transfer_usd")


class TierRisk(BaseModel):
    """One of the three budgets: the option it pays for, and how likely it is enough for the whole project."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tier: str
    meaning: str
    option: str
    budget_usd: float = Field(description="that is asked for, whole project")
    result: RiskResult = Field(description="whole project, people included, on this option")

    @property
    def probability(self) -> float:
        """P(cost <= budget)."""
        return self.result.budgets[0].probability


class PlanRisk(BaseModel):
    """The risk of one option, and of the three tiers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    option: str
    infrastructure: RiskResult = Field(description="what is rented, nothing else")
    project: RiskResult = Field(description="with the people's work and the phases before and after")
    tiers: tuple[TierRisk, ...]


def plan_risk(plan: BudgetPlan, project: ProjectInputs, *, draws: int = DRAWS, seed: int = 0) -> PlanRisk | None:
    """The risk of the recommended option and of the tiers; None when nothing fits."""
    named = choices(plan)
    if named is None:
        return None
    option, request = named.recommended, plan.request
    budgets = [request.budget_usd] if request.budget_usd is not None else []
    deadlines = [request.deadline_hours] if request.deadline_hours is not None else []
    return PlanRisk(
        option=option.name,
        infrastructure=simulate(risk_model(plan, option), draws, seed, budgets_usd=budgets, deadlines_hours=deadlines),
        project=simulate(
            risk_model(plan, option, project), draws, seed, budgets_usd=sorted(project.tier_budgets_usd.values())
        ),
        tiers=_tiers(plan, project, draws, seed),
    )


def risk_model(plan: BudgetPlan, option: Option, project: ProjectInputs | None = None) -> RiskModel:
    """The option as uncertain figures; with `project`, people's work and the phases around the training too.

    Raises ValueError for an option that does not fit.
    """
    if option.cost is None:
        raise ValueError(f"option '{option.name}' does not fit and costs nothing")
    hours = {stage.stage: stage.hours for stage in option.stages}
    return risk_model_of(
        option.name,
        hours,
        option.cost.compute_usd / sum(hours.values()),
        work_usd=project.people_usd if project else None,
        rented_usd={field.removesuffix("_usd"): getattr(option.cost, field) for field in _RENTED},
        mfu_ratio=_mfu_ratio(plan, option),
        price_ratio=ASSUMED_PRICE_RATIO if option.offer is not None else Fixed(value=1.0),
        events=_events(plan),
        interruptions=_interruptions(plan, option),
        preparation=_phase("implementation", project.implementation_weeks if project else 0),
        wrap_up=_phase("validation", project.validation_weeks if project else 0),
    )


def _events(plan: BudgetPlan) -> tuple[RiskEvent, ...]:
    """The founding report's events. Their dollars and delays belong to its training; a smaller one has its share."""
    share = min(1.0, plan.total_flops / FOUNDING_FLOPS)
    return tuple(
        event.model_copy(update={"usd": _times(event.usd, share), "delay_hours": _times(event.delay_hours, share)})
        for event in SEED_EVENTS
    )


def _times(distribution: Distribution, share: float) -> Distribution:
    return distribution if share == 1 or not distribution.mean else scaled(distribution, share)


def _phase(name: str, weeks: float) -> tuple[Phase, ...]:
    return (Phase(name=name, hours=Fixed(value=weeks * HOURS_PER_WEEK)),) if weeks else ()


def _mfu_ratio(plan: BudgetPlan, option: Option) -> Distribution:
    machine = plan.request.machine
    if option.offer is None and machine is not None:
        return Lognormal(median=1.0, sigma=machine.relative_error) if machine.relative_error else Fixed(value=1.0)
    return ASSUMED_MFU_RATIO


def _interruptions(plan: BudgetPlan, option: Option) -> Interruptions | None:
    """Preemptions of a spot offer. Checkpoints are written beside training, which stands still only while the state is
    copied to the processor's memory: the checkpoint's bytes over the rates of `model.sizing.Rates`, all GPUs at once.
    """
    if option.offer is None or not option.offer.preemptions_per_hour:
        return None
    stages = plan.request.stages
    copied_seconds = plan.corpus.checkpoint_bytes / option.ranks / Rates().host_bytes_per_second
    return spot_interruptions(
        option.offer.preemptions_per_hour,
        option.instances,
        checkpoint_interval_hours=min(stage.checkpoint_every_seconds for stage in stages) / 3600,
        restart_hours=plan.request.assumptions.restart_hours,
        checkpoint_write_hours=copied_seconds / 3600,
        wait_hours=0.0,
    )


def tier_options(plan: BudgetPlan) -> Mapping[str, tuple[str, Option]]:
    """What each tier means, and its option; a tier whose way of buying nothing offers is left out."""
    found = {
        "aggressive": (
            "the cheapest, spot included",
            cheapest_where(plan, ("on-demand", "spot", "reserved-1y", "reserved-3y")),
        ),
        "conservative": ("the cheapest on demand", cheapest_where(plan, ("on-demand",))),
        "enterprise": (
            f"the cheapest on demand of {', '.join(LARGE_PROVIDERS)}",
            cheapest_where(plan, ("on-demand",), LARGE_PROVIDERS),
        ),
    }
    return {tier: (meaning, option) for tier, (meaning, option) in found.items() if option is not None}


def _tiers(plan: BudgetPlan, project: ProjectInputs, draws: int, seed: int) -> tuple[TierRisk, ...]:
    return tuple(
        TierRisk(
            tier=tier,
            meaning=meaning,
            option=option.name,
            budget_usd=project.tier_budgets_usd[tier],
            result=simulate(
                risk_model(plan, option, project), draws, seed, budgets_usd=[project.tier_budgets_usd[tier]]
            ),
        )
        for tier, (meaning, option) in tier_options(plan).items()
        if tier in project.tier_budgets_usd
    )
