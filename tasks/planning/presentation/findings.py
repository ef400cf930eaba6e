"""What the report tells beside the plan itself: sensitivity, measures, timeline, return, what the hybrid saves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from model import ModelConfig
from model.sizing import training_flops_per_token
from tasks.planning.plan import BudgetPlan
from tasks.planning.presentation.plan_risk import PlanRisk, risk_model
from tasks.planning.presentation.project import ProjectInputs
from tasks.risk.mitigations import (
    Mitigation,
    MitigationValue,
    best_interval,
    calibration_run,
    data_validation,
    provider_failover,
    robust_checkpointing,
    values_of,
    without_spot,
)
from tasks.risk.model import RiskModel
from tasks.risk.returns import Investment, Returns, returns_of
from tasks.risk.sensitivity import Sensitivity, sensitivity
from tasks.risk.timeline import Timeline, timeline_of

DRAWS = 20_000
#: What a calibration on rented GPUs is taken to leave open, where none was made: one standard deviation, relative.
ASSUMED_CALIBRATION_ERROR = 0.1
_HOURS_PER_MONTH = 365.25 / 12 * 24


@dataclass(frozen=True)
class Findings:
    """All of one option: the recommended one, as `PlanRisk` has it."""

    risk: PlanRisk
    project: ProjectInputs
    sensitivity: Sensitivity
    mitigations: tuple[MitigationValue, ...]
    timeline: Timeline
    returns: Returns


def find(plan: BudgetPlan, risk: PlanRisk, project: ProjectInputs, start: datetime, *, seed: int = 0) -> Findings:
    """What follows from the risk of the recommended option. start: of the project, for the timeline's dates."""
    option = plan.option(risk.option)
    model = risk_model(plan, option, project)
    budgets = sorted(project.tier_budgets_usd.values())
    return Findings(
        risk=risk,
        project=project,
        sensitivity=sensitivity(model, DRAWS, seed),
        mitigations=values_of(model, _measures(plan, model), DRAWS, seed, budgets_usd=budgets),
        timeline=timeline_of(model, start, risk.project),
        returns=returns_of(
            Investment(
                usd=risk.project.cost_usd.mean,
                annual_value_usd=project.annual_value_usd,
                months_to_value=risk.project.finish_hours.mean / _HOURS_PER_MONTH,
            )
        ),
    )


def _measures(plan: BudgetPlan, model: RiskModel) -> list[Mitigation]:
    """Every measure that applies; the on-demand price is that of the same machine, if it has one."""
    error = plan.request.machine.relative_error if plan.request.machine else ASSUMED_CALIBRATION_ERROR
    measures = [robust_checkpointing(model), provider_failover(model), data_validation(model)]
    if model.mfu_ratio.sd and error:
        measures.append(calibration_run(model, error))
    if model.interruptions is not None:
        measures.append(best_interval(model))
        on_demand = _on_demand_usd_per_hour(plan, model.name)
        if on_demand is not None:
            measures.append(without_spot(model, on_demand))
    return measures


def _on_demand_usd_per_hour(plan: BudgetPlan, spot_option: str) -> float | None:
    option = plan.option(spot_option)
    spot = option.offer
    prices = [
        other.offer.usd_per_hour
        for other in plan.options
        if spot is not None
        and other.offer is not None
        and other.offer.variant == "on-demand"
        and (other.offer.provider, other.offer.instance, other.offer.edition)
        == (spot.provider, spot.instance, spot.edition)
    ]
    return prices[0] * option.instances if prices else None


@dataclass(frozen=True)
class PatternFlops:
    """The curriculum's FLOPs with another pattern of mixers, at the same width and depth."""

    title: str
    attention_layers: int
    flops: float


def pattern_flops(plan: BudgetPlan) -> list[PatternFlops]:
    """The model as it is, with attention in every sixth layer (5:1), and with attention everywhere.

    Only hybrids of attention and one linear mixer have such relatives; others give just themselves.
    """
    model = plan.request.model
    kinds = model.mixer_kinds
    found = [PatternFlops("as planned", kinds.count("attention"), plan.total_flops)]
    linear = [kind for kind in dict.fromkeys(kinds) if kind != "attention"]
    if len(linear) != 1 or "attention" not in kinds:
        return found
    fifths = tuple("attention" if layer % 6 == 5 else linear[0] for layer in range(model.layer_count))
    for title, layers in (("5:1", fifths), ("attention in every layer", ("attention",) * model.layer_count)):
        other = model.changed(layer_kinds=layers)
        found.append(PatternFlops(title, layers.count("attention"), _curriculum_flops(plan, other)))
    return found


def _curriculum_flops(plan: BudgetPlan, model: ModelConfig) -> float:
    return sum(
        training_flops_per_token(model, stage.context_tokens).total * stage.steps * stage.batch_tokens
        for stage in plan.request.stages
    )
