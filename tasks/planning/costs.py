"""Dollars of an option, line by line."""

from __future__ import annotations

from collections.abc import Sequence

from infra.budget import Offer, ProviderRates
from tasks.planning.plan import CorpusPlan, CostLines, StageTime
from tasks.planning.request import Assumptions, Machine
from tasks.risk import expected_hours
from tasks.training import TrainingStageConfig

HOURS_PER_MONTH = 730.0
HOURS_PER_YEAR = 8760
_COMMITTED_YEARS = {"reserved-1y": 1, "reserved-3y": 3}


def preemption_overhead(
    stages: Sequence[TrainingStageConfig], times: Sequence[StageTime], per_hour: float, restart_hours: float
) -> float:
    """Expected added time as a share: work done again, and restarts, by Daly's complete model (2006).

    per_hour: of all instances together, since training stops with any of them. A stage's interval is what its
    `checkpoint_every_seconds` and `checkpoint_every_fraction` come to. Writing is taken to cost nothing: it happens
    beside training.
    """
    if per_hour == 0:
        return 0.0
    work = sum(time.hours for time in times)
    paid = 0.0
    for stage, time in zip(stages, times, strict=True):
        interval = min(
            stage.checkpoint_every_seconds / 3600,
            time.hours * stage.every(stage.checkpoint_every_fraction) / stage.steps,
        )
        paid += expected_hours(time.hours, interval, 0.0, restart_hours, 1 / per_hour)
    return paid / work - 1


def rented_cost(
    offer: Offer,
    instances: int,
    hours: float,
    overhead: float,
    corpus: CorpusPlan,
    rates: ProviderRates,
    assumptions: Assumptions,
) -> CostLines:
    """What a rented option costs; `hours` of training without its preemptions, which add `overhead` as a share."""
    compute = hours * offer.usd_per_hour * instances
    months = hours * (1 + overhead) / HOURS_PER_MONTH + assumptions.storage_months
    return with_contingency(
        assumptions,
        compute_usd=compute,
        preemptions_usd=compute * overhead,
        evaluation_usd=compute * assumptions.evaluation_share,
        quantization_usd=compute * assumptions.quantization_share,
        preprocessing_usd=sum(corpus.core_hours.values()) * rates.cpu_core_usd_per_hour,
        storage_usd=corpus.stored_bytes / 1e9 * rates.storage_usd_per_gb_month * months,
        transfer_usd=corpus.released_bytes / 1e9 * rates.egress_usd_per_gb * assumptions.downloads,
    )


def owned_cost(machine: Machine, hours: float, corpus: CorpusPlan, assumptions: Assumptions) -> CostLines:
    """What the same takes on a machine that is there: its hours; its disk and network are paid for with it."""
    compute = hours * machine.usd_per_hour
    return with_contingency(
        assumptions,
        compute_usd=compute,
        preemptions_usd=0.0,
        evaluation_usd=compute * assumptions.evaluation_share,
        quantization_usd=compute * assumptions.quantization_share,
        preprocessing_usd=sum(corpus.core_hours.values()) / machine.cores * machine.usd_per_hour,
        storage_usd=0.0,
        transfer_usd=0.0,
    )


def with_contingency(assumptions: Assumptions, **lines: float) -> CostLines:
    """The lines, and the contingency on their sum."""
    return CostLines(**lines, contingency_usd=assumptions.contingency_share * sum(lines.values()))


def committed_usd(offer: Offer, instances: int) -> float:
    """What a reservation's whole term takes, used or not; 0 for what is paid by the hour."""
    years = _COMMITTED_YEARS.get(offer.variant, 0)
    return offer.usd_per_hour * instances * HOURS_PER_YEAR * years
