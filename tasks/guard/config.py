"""When the guard warns, asks and stops."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GuardConfig(BaseModel):
    """Thresholds of the budget guard. Without a ceiling it only forecasts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    every_steps: int = Field(50, ge=1, description="updates between two forecasts while training")
    every_seconds: float = Field(30.0, gt=0, description="time between two forecasts in other stages, seconds")
    settling_steps: int = Field(
        10, ge=1, description="updates of a stage before its own speed counts: the first ones load code and memory"
    )
    warn_probability: float = Field(
        0.1, ge=0, le=1, description="warn when the forecast exceeds the ceiling with this probability"
    )
    suspend_probability: float = Field(
        0.5, ge=0, le=1, description="checkpoint and ask a person when it does with this probability"
    )
    stop_share: float = Field(
        1.0, gt=0, le=1, description="share of the ceiling at which a run ends, whatever was forecast"
    )
    on_overspend: Literal["ask", "stop", "warn"] = Field(
        "ask",
        description="what follows a forecast over the ceiling: ask and wait; stop at once, with a partial model, for "
        "rented machines nobody watches; or only warn. The ceiling itself always stops a run",
    )

    @model_validator(mode="after")
    def _warns_before_it_asks(self) -> Self:
        if self.warn_probability > self.suspend_probability:
            raise ValueError(
                f"warn_probability {self.warn_probability} exceeds suspend_probability {self.suspend_probability}; "
                "lower it"
            )
        return self
