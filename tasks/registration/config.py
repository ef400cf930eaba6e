"""What can be chosen of the registration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from infra.artifacts import StageConfig, added_argument, run_argument
from tasks.registration.formats import FORMATS
from tasks.registration.partial import PartialTraining

PromotionRule = Literal["not-worse", "gates"]


class RegistrationConfig(StageConfig):
    """The bundle that is deployed, and the name it is registered under."""

    model_name: str = Field(
        default="sam2", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="registered model name"
    )
    formats: tuple[str, ...] = Field(
        default=("int8", "q4_k_m"),
        description="quantized formats put into the bundle when they were made and accepted",
    )
    serve_format: str = Field(default="fp32", description="what predict() opens: fp32, or one of `formats`")
    copy_limit_megabytes: float = run_argument(
        512.0, "bundles up to this size are copied into the registry; larger ones are registered by address", ge=0
    )
    promotion: PromotionRule = run_argument(
        "not-worse",
        "what a new version needs to become champion by itself: `gates`: every gate passed; `not-worse`: that, and no "
        "metric significantly worse than the present champion's",
    )
    partial: PartialTraining | None = added_argument(
        None, "what the model was trained on of its plan, filled in where its training was stopped early"
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in formats if name not in FORMATS]
        if unknown:
            raise ValueError(f"no stored format is called {', '.join(unknown)}; choose from {', '.join(FORMATS)}")
        return formats
