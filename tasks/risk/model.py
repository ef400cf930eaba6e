"""What a training project's cost and duration are made of, and what is uncertain about each part.

The cost of one draw, USD:

    compute hours x usd_per_hour x (1 - discount) x price_ratio  +  lines  +  events' own costs

compute hours: sum over the stages of hours / mfu_ratio x (1 + extra training of the events that happen), and what
interruptions add to it. The finish is preparation, then compute hours, waiting and delays, then wrap-up. All parts are
independent of each other.
"""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.risk.distributions import Distribution, Fixed

HOURS_PER_DAY = 24.0
HOURS_PER_WEEK = 168.0


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Part):
    """One stage of the curriculum. hours: on the wall clock, at the planned MFU, when nothing goes wrong."""

    name: str
    hours: float = Field(gt=0)


class CostLine(_Part):
    """Money that is spent once, whatever the training takes: development, validation, storage, ..."""

    name: str
    usd: Distribution

    @model_validator(mode="after")
    def _costs(self) -> Self:
        if self.usd.mean < 0:
            raise ValueError(f"line '{self.name}' earns money on average; a cost is a positive number of USD")
        return self


class Phase(_Part):
    """Calendar time before or after the training, in which no GPU is paid for."""

    name: str
    hours: Distribution


class RiskEvent(_Part):
    """Something that happens once or not at all."""

    name: str = Field(pattern="^[^/]+$", description="without a slash: its figures are named event/<name>/<figure>")
    probability: float = Field(ge=0, le=1)
    extra_training: Distribution = Field(
        Fixed(value=0.0), description="training time it adds, as a share of the training: 0.5 is half as long again"
    )
    delay_hours: Distribution = Field(Fixed(value=0.0), description="calendar time it adds, with no GPU paid for")
    usd: Distribution = Field(Fixed(value=0.0), description="what it costs besides training time, USD")

    @model_validator(mode="after")
    def _adds(self) -> Self:
        for field in ("extra_training", "delay_hours"):
            if getattr(self, field).minimum < 0:
                raise ValueError(f"event '{self.name}': {field} may be negative; choose one that begins at zero")
        return self


class Interruptions(_Part):
    """Failures and spot preemptions at random moments, and the checkpoints taken against them.

    per_hour: of all rented instances together, since losing one stops the job. restart_hours: paid, from instances
    that are there again to the first new step; wait_hours: until they are there, not paid.
    """

    per_hour: Distribution
    restart_hours: float = Field(ge=0)
    wait_hours: float = Field(0.0, ge=0)
    checkpoint_interval_hours: float = Field(gt=0, description="training between two checkpoints")
    checkpoint_write_hours: float = Field(0.0, ge=0, description="training stands still for so long to write one")

    @model_validator(mode="after")
    def _positive_rate(self) -> Self:
        if self.per_hour.minimum < 0:
            raise ValueError("interruptions.per_hour may be negative; choose a distribution that begins at zero")
        return self


class RiskModel(_Part):
    """Everything a simulation needs; hours and USD as above."""

    name: str
    stages: tuple[Stage, ...] = Field(min_length=1)
    usd_per_hour: float = Field(ge=0, description="list price of all rented instances together")
    discount: float = Field(0.0, ge=0, lt=1, description="share taken off the list price, for reserved capacity")
    price_ratio: Distribution = Field(Fixed(value=1.0), description="price paid over price planned")
    mfu_ratio: Distribution = Field(Fixed(value=1.0), description="MFU achieved over MFU planned")
    lines: tuple[CostLine, ...] = ()
    events: tuple[RiskEvent, ...] = ()
    interruptions: Interruptions | None = None
    preparation: tuple[Phase, ...] = Field((), description="one after another, before the training")
    wrap_up: tuple[Phase, ...] = Field((), description="one after another, after the training")

    @property
    def paid_usd_per_hour(self) -> float:
        """Planned price of all instances after the discount."""
        return self.usd_per_hour * (1 - self.discount)

    @property
    def planned_training_hours(self) -> float:
        """Hours of all stages when nothing goes wrong."""
        return sum(stage.hours for stage in self.stages)

    @model_validator(mode="after")
    def _ratios_are_positive(self) -> Self:
        # A lognormal begins at zero but never reaches it; a uniform or triangular one that begins there divides by it.
        if self.mfu_ratio.minimum < 0 or (self.mfu_ratio.minimum == 0 and self.mfu_ratio.kind != "lognormal"):
            raise ValueError("mfu_ratio may reach zero, where training never ends; choose one that begins above it")
        if self.price_ratio.minimum < 0:
            raise ValueError("price_ratio may be negative; choose a distribution that begins at zero")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        steps: tuple[Phase | Stage, ...] = (*self.preparation, *self.stages, *self.wrap_up)
        names = {
            "stages and phases": [step.name for step in steps],
            "lines": [line.name for line in self.lines],
            "events": [event.name for event in self.events],
        }
        for field, found in names.items():
            twice = [name for name, count in Counter(found).items() if count > 1]
            if twice:
                raise ValueError(f"'{twice[0]}' is twice among the {field}; each needs a name of its own")
        return self
