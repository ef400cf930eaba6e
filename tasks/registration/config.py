"""What can be chosen of the registration."""

from __future__ import annotations

from pydantic import Field

from infra.artifacts import StageConfig, run_argument


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
