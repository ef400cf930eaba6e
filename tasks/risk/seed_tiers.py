"""The founding report's three budgets against its claimed chances of success, recomputed.

seeds/000-budget-planning.md ("Budget Recommendations", 2025-07-12) and seeds/001-phase0-summary.md ("Cost Analysis")
claim 70, 85 and 95 % "success probability" for 38,000, 65,000 and 133,000 USD without saying what succeeds. Read here
as the chance that the project's cost stays within the budget, on four bases:

* stated: the report's own lines at face value, its three risks at their stated probability and impact, nothing else
  uncertain. The buffer is what the risks may use up.
* buffers: the same, but each risk costs just the "cost buffer" the report names for it, so that a training failure
  costs 5,000 USD instead of half the training.
* gpu-hours: the report's GPU-hours by stage (1,000, 1,500 and 1,000 on eight A100) at the tier's price, with the
  spreads of tasks/risk/defaults.py on everything.
* flops: the same with the caller's hours, recomputed from FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infra.errors import ConfigurationError
from tasks.risk.defaults import ASSUMED_MFU_RATIO, ASSUMED_PRICE_RATIO, SEED_EVENTS, risk_model_of
from tasks.risk.distributions import Distribution, Fixed, Uniform
from tasks.risk.model import CostLine, Interruptions, RiskEvent, RiskModel
from tasks.risk.result import Chance
from tasks.risk.simulation import simulate

Basis = Literal["stated", "buffers", "gpu-hours", "flops"]

#: GPU-hours by stage, and the GPUs they are spread over ("Phase 2 Training Curriculum", "Primary Training Setup").
SEED_GPU_HOURS = {"foundation": 1000.0, "context-scaling": 1500.0, "long-context": 1000.0}
SEED_GPUS = 8
#: Prices of eight A100 ("Cloud Provider Options"), USD an hour.
LAMBDA_USD_PER_HOUR = 12.00
AWS_USD_PER_HOUR = 32.77
#: "Spot Instances: 50-70% cost reduction": 60 % off, paid price between 30 and 50 % of the list.
SPOT_DISCOUNT = 0.6
SPOT_PRICE_RATIO = Uniform(low=0.75, high=1.25)
#: "Cost Buffer" of each risk, taken as all that it costs.
BUFFER_EVENTS = tuple(
    RiskEvent(name=event.name, probability=event.probability, usd=Fixed(value=usd))
    for event, usd in zip(SEED_EVENTS, (5000.0, 2000.0, 3000.0), strict=True)
)


class SeedTier(BaseModel):
    """One of the report's budgets: its lines, USD, what it rents, and the claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["aggressive", "conservative", "enterprise"]
    budget_usd: float
    claimed_probability: float
    training_usd: float
    development_usd: float
    validation_usd: float
    buffer_usd: float
    usd_per_hour: float
    rents: Literal["spot", "on-demand", "reserved"]
    rented_usd: dict[str, float]  # preprocessing, storage and the like, of the option this tier builds on


_LAMBDA_LINES = {"preprocessing": 500.0, "storage and bandwidth": 300.0, "monitoring": 200.0}
_AWS_LINES = {"preprocessing": 500.0, "storage and bandwidth": 800.0, "monitoring": 500.0}

SEED_TIERS = (
    SeedTier(
        name="aggressive", budget_usd=38_000, claimed_probability=0.70, training_usd=20_000, development_usd=10_000,
        validation_usd=3_000, buffer_usd=5_000, usd_per_hour=LAMBDA_USD_PER_HOUR, rents="spot",
        rented_usd=_LAMBDA_LINES,
    ),
    SeedTier(
        name="conservative", budget_usd=65_000, claimed_probability=0.85, training_usd=35_000, development_usd=15_000,
        validation_usd=5_000, buffer_usd=10_000, usd_per_hour=LAMBDA_USD_PER_HOUR, rents="on-demand",
        rented_usd=_LAMBDA_LINES,
    ),
    SeedTier(
        name="enterprise", budget_usd=133_000, claimed_probability=0.95, training_usd=90_000, development_usd=20_000,
        validation_usd=8_000, buffer_usd=15_000, usd_per_hour=AWS_USD_PER_HOUR, rents="reserved",
        rented_usd=_AWS_LINES,
    ),
)  # fmt: skip


class TierFinding(BaseModel):
    """The chance that a tier's cost stays within its budget, on one basis, beside the claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tier: SeedTier
    basis: Basis
    training_hours: float  # planned, on the wall clock
    mean_usd: float
    p95_usd: float
    chance: Chance


def stated_model(tier: SeedTier, events: Sequence[RiskEvent] = SEED_EVENTS) -> RiskModel:
    """The tier's lines as they are written, with the report's risks as its only uncertainty."""
    hours = sum(SEED_GPU_HOURS.values()) / SEED_GPUS
    return risk_model_of(
        f"{tier.name} tier as stated",
        {stage: gpu_hours / SEED_GPUS for stage, gpu_hours in SEED_GPU_HOURS.items()},
        # The price that makes the report's hours cost the report's training line.
        tier.training_usd / hours,
        mfu_ratio=Fixed(value=1.0),
        price_ratio=Fixed(value=1.0),
        events=events,
    ).model_copy(
        update={
            "lines": (
                CostLine(name="development", usd=Fixed(value=tier.development_usd)),
                CostLine(name="validation", usd=Fixed(value=tier.validation_usd)),
            )
        }
    )


def recomputed_model(
    tier: SeedTier,
    hours_by_stage: Mapping[str, float],
    *,
    spot: Interruptions | None = None,
    reserved_discount: float = 0.0,
    mfu_ratio: Distribution = ASSUMED_MFU_RATIO,
) -> RiskModel:
    """The tier's set-up with these wall-clock hours on its eight A100 and every spread.

    spot: interruptions of the spot instances, needed for the tier that rents them. reserved_discount: off AWS's list
    price, of which the report says nothing; zero is the list price.
    """
    if tier.rents == "spot" and spot is None:
        raise ConfigurationError(
            f"the {tier.name} tier rents spot instances, and no preemptions were given.",
            "pass spot=spot_interruptions(...).",
        )
    discount = {"spot": SPOT_DISCOUNT, "on-demand": 0.0, "reserved": reserved_discount}[tier.rents]
    return risk_model_of(
        f"{tier.name} tier recomputed",
        hours_by_stage,
        tier.usd_per_hour,
        work_usd={"development": tier.development_usd, "validation": tier.validation_usd},
        rented_usd=tier.rented_usd,
        discount=discount,
        mfu_ratio=mfu_ratio,
        price_ratio=SPOT_PRICE_RATIO if tier.rents == "spot" else ASSUMED_PRICE_RATIO,
        interruptions=spot if tier.rents == "spot" else None,
    )


def check_tiers(
    flops_hours_by_stage: Mapping[str, float],
    spot: Interruptions,
    *,
    reserved_discount: float = 0.0,
    mfu_ratio: Distribution = ASSUMED_MFU_RATIO,
    draws: int = 100_000,
    seed: int = 0,
) -> tuple[TierFinding, ...]:
    """Every tier on every basis; `flops_hours_by_stage` on the wall clock of eight A100."""
    seed_hours = {stage: gpu_hours / SEED_GPUS for stage, gpu_hours in SEED_GPU_HOURS.items()}
    recomputed = partial(recomputed_model, spot=spot, reserved_discount=reserved_discount, mfu_ratio=mfu_ratio)
    found = []
    for tier in SEED_TIERS:
        models: dict[Basis, RiskModel] = {
            "stated": stated_model(tier),
            "buffers": stated_model(tier, BUFFER_EVENTS),
            "gpu-hours": recomputed(tier, seed_hours),
            "flops": recomputed(tier, flops_hours_by_stage),
        }
        found += [_finding(tier, basis, model, draws, seed) for basis, model in models.items()]
    return tuple(found)


def _finding(tier: SeedTier, basis: Basis, model: RiskModel, draws: int, seed: int) -> TierFinding:
    result = simulate(model, draws, seed, budgets_usd=(tier.budget_usd,))
    return TierFinding(
        tier=tier,
        basis=basis,
        training_hours=model.planned_training_hours,
        mean_usd=result.cost_usd.mean,
        p95_usd=result.cost_usd.p95,
        chance=result.budgets[0],
    )
