"""A plan as numbers with names, `plan/...`: what MLflow compares plans by, and runs with their plans."""

from __future__ import annotations

from tasks.planning.plan import BudgetPlan, Option
from tasks.planning.presentation.choices import choices
from tasks.planning.presentation.cost_tables import stage_usd
from tasks.planning.presentation.plan_risk import PlanRisk


def plan_metrics(plan: BudgetPlan, risk: PlanRisk | None = None) -> dict[str, float]:
    """Totals, those of the recommended, cheapest and fastest option, hours and dollars by stage, and the risk."""
    metrics = {
        "plan/parameters": float(plan.parameters.total),
        "plan/tokens": float(plan.request.training_tokens),
        "plan/flops": plan.total_flops,
        "plan/options_that_fit": float(len(plan.usable())),
    }
    named = choices(plan)
    if named is not None:
        metrics["plan/meets_limits"] = float(named.meets_limits)
        metrics |= _of_option("plan", named.recommended)
        metrics |= _of_option("plan/cheapest", named.cheapest) | _of_option("plan/fastest", named.fastest)
        for stage, usd in stage_usd(named.recommended).items():
            metrics[f"plan/stages/{stage}/usd"] = usd
        for entry in named.recommended.stages:
            metrics[f"plan/stages/{entry.stage}/hours"] = entry.hours
    return metrics if risk is None else metrics | _of_risk(risk)


def _of_option(prefix: str, option: Option) -> dict[str, float]:
    return {
        f"{prefix}/usd": option.usd,
        f"{prefix}/training_hours": option.training_hours,
        f"{prefix}/gpu_hours": option.gpu_hours,
    }


def _of_risk(risk: PlanRisk) -> dict[str, float]:
    cost, finish = risk.infrastructure.cost_usd, risk.infrastructure.finish_hours
    metrics = {
        "plan/risk/usd_mean": cost.mean,
        "plan/risk/usd_p50": cost.p50,
        "plan/risk/usd_p95": cost.p95,
        "plan/risk/hours_p50": finish.p50,
        "plan/risk/hours_p95": finish.p95,
        "plan/risk/project_usd_mean": risk.project.cost_usd.mean,
        "plan/risk/project_usd_p95": risk.project.cost_usd.p95,
    }
    for chance in risk.infrastructure.budgets:
        metrics["plan/risk/p_within_budget"] = chance.probability
    for chance in risk.infrastructure.deadlines:
        metrics["plan/risk/p_within_deadline"] = chance.probability
    for tier in risk.tiers:
        metrics[f"plan/risk/tiers/{tier.tier}/p_enough"] = tier.probability
    return metrics
