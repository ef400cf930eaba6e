"""A budget plan from a profile and a few choices: what `sam2 plan` and the Prefect flow have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.configuration import PipelineConfig, load_profile
from flows.plan_request import plan_request
from infra.budget import PriceCatalog, load_catalog
from infra.errors import ConfigurationError
from tasks.calibration.store import CALIBRATIONS_DIRECTORY
from tasks.planning import Assumptions, BudgetPlan, ladder, plan
from tasks.planning.ladder import DEFAULT_MFU
from tasks.planning.presentation import (
    Findings,
    PlanRisk,
    ProjectInputs,
    ReportTable,
    find,
    ladder_tables,
    load_project,
    plan_risk,
)

_HOURS_PER_DAY = 24


class PlanChoices(BaseModel):
    """What may be said about a plan beside the profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_usd: float | None = Field(None, gt=0, description="most that may be spent; left out: the profile's ceiling")
    deadline_days: float | None = Field(None, gt=0, description="longest training time, days")
    mfu: float | None = Field(
        None, gt=0, le=1, description="model FLOPs utilisation; left out: the default of each kind of GPU"
    )
    contingency: float | None = Field(None, ge=0, description="share added to the sum; left out: 0.1")
    providers: tuple[str, ...] = Field((), description="only these; left out: all")
    variants: tuple[str, ...] = Field((), description="only on-demand, spot, reserved-1y or reserved-3y")
    have_reservations: bool = Field(False, description="reserved prices count for the hours used only")
    catalog: Path | None = Field(None, description="a price catalog of your own")
    project: Path | None = Field(None, description="YAML of what people state: work, value, budgets")
    risk: bool = Field(True, description="simulate what may go wrong")


@dataclass(frozen=True)
class MadePlan:
    """A plan with its risk, and the configuration it is of."""

    config: PipelineConfig
    plan: BudgetPlan
    risk: PlanRisk | None
    project: ProjectInputs
    catalog: PriceCatalog

    def ladder(self) -> tuple[ReportTable, ...]:
        """What the sizes of the founding ladder take at the same prices."""
        mfu = self.plan.request.assumptions.mfu or DEFAULT_MFU
        return ladder_tables(ladder(self.catalog, mfu=mfu), self.catalog, mfu)

    def findings(self, start: datetime | None = None) -> Findings | None:
        """What the report tells beside the plan; None without risk. start: of the project, left out: now."""
        if self.risk is None:
            return None
        return find(self.plan, self.risk, self.project, start or datetime.now(UTC))


def make_plan(profile: str, changes: Mapping[str, Any], choices: PlanChoices, home: Path) -> MadePlan:
    """Plan a profile. home: SAM2_HOME, where calibrations are.

    Raises ConfigurationError for a profile, catalog or project file that cannot be used, and for providers and
    variants of which the catalog has none.
    """
    config = load_profile(profile, changes)
    project = load_project(choices.project)
    request = plan_request(
        config,
        assumptions=_assumptions(choices),
        budget_usd=choices.budget_usd,
        deadline_hours=None if choices.deadline_days is None else choices.deadline_days * _HOURS_PER_DAY,
        calibrations=home / CALIBRATIONS_DIRECTORY,
    )
    catalog = offered(load_catalog(choices.catalog), choices)
    made = plan(request, catalog)
    return MadePlan(config, made, plan_risk(made, project) if choices.risk else None, project, catalog)


def _assumptions(choices: PlanChoices) -> Assumptions:
    said = {"mfu": choices.mfu, "contingency_share": choices.contingency}
    return Assumptions(
        **{name: value for name, value in said.items() if value is not None},
        has_reservations=choices.have_reservations,
    )


def offered(catalog: PriceCatalog, choices: PlanChoices) -> PriceCatalog:
    """The catalog with the chosen providers and variants alone; raises ConfigurationError when nothing is left."""
    for option, chosen, known in (
        ("--provider", choices.providers, {offer.provider for offer in catalog.offers}),
        ("--variant", choices.variants, {offer.variant for offer in catalog.offers}),
    ):
        unknown = sorted(set(chosen) - known)
        if unknown:
            raise ConfigurationError(
                f"{option} {unknown[0]}: the price catalog has none of it.", f"choose from: {', '.join(sorted(known))}."
            )
    offers = tuple(
        offer
        for offer in catalog.offers
        if (not choices.providers or offer.provider in choices.providers)
        and (not choices.variants or offer.variant in choices.variants)
    )
    if not offers:
        raise ConfigurationError(
            f"the price catalog has no offer of {', '.join(choices.providers)} bought {', '.join(choices.variants)}.",
            "leave out --provider or --variant.",
        )
    return catalog.model_copy(update={"offers": offers})
