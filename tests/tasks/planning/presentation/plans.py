"""Small plans that the tests of the presentation share: two stages on eight GPUs, three providers."""

from __future__ import annotations

from functools import cache
from typing import Any

from infra.budget import PriceCatalog
from model import preset
from tasks.planning import Assumptions, BudgetPlan, PlanRequest, plan
from tests.tasks.planning.plan_requests import DAY, catalog, offer, request, stage

NOTHING_FITS = 0.1


@cache
def small_plan(
    budget_usd: float | None = None, deadline_hours: float | None = None, gpu_memory_gb: float = 80.0
) -> BudgetPlan:
    """Planned once for each set of limits."""
    return plan(small_request(budget_usd, deadline_hours), small_catalog(gpu_memory_gb), today=DAY)


def small_request(budget_usd: float | None = None, deadline_hours: float | None = None) -> PlanRequest:
    """The preset `small` on rows of 1,024 and 2,048 tokens."""
    model = preset("small")
    stages = (
        stage(model, name="short", context=1024, tokens=1 << 31),
        stage(model, name="long", context=2048, tokens=1 << 30, gradient_checkpointing=True),
    )
    return request(
        stages=stages, budget_usd=budget_usd, deadline_hours=deadline_hours, assumptions=Assumptions(largest_fleet=2)
    )


def small_catalog(gpu_memory_gb: float = 80.0) -> PriceCatalog:
    """Slow and cheap, quick and dear, a spot variant, and a reservation that binds."""
    memory: dict[str, Any] = {"gpu_memory_gb": gpu_memory_gb}
    offers = (
        offer("slow", 10.0, **memory),
        offer("slow", 4.0, variant="spot", preemptions_per_hour=0.05, **memory),
        offer("slow", 7.0, variant="reserved-1y", **memory),
        offer("quick", 50.0, provider="aws", peak_bf16_teraflops=989.5, **memory),
        offer("old", 1.0, edition="founding", **memory),
    )
    one = catalog(offers[0])
    return one.model_copy(update={"offers": offers, "providers": {**one.providers, "aws": one.providers["own"]}})
