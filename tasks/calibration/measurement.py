"""One configuration, measured."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tasks.calibration.setup import Variant


class Measurement(BaseModel):
    """Updates of one micro-batch a rank (the fixed part is measured apart), and what they held at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    context_tokens: int = Field(ge=1, description="tokens in a row")
    micro_batch: int = Field(ge=1, description="rows a rank runs at once")
    updates: int = Field(ge=1, description="updates that count, warm-up left out")
    micro_batch_seconds: float = Field(gt=0, description="forward and backward of one micro-batch, lower quartile")
    update_seconds: float = Field(ge=0, description="what an update takes beside its micro-batches, lower quartile")
    spread: float = Field(ge=0, description="how far that quartile may be off by chance, relative")


class MemoryMeasurement(BaseModel):
    """Peak memory of one rank in a process of its own, beside what `model.sizing` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    context_tokens: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    measured_bytes: int = Field(gt=0, description="peak while training less what was held before the model was built")
    predicted_bytes: int = Field(gt=0, description="by model.sizing")

    @property
    def difference(self) -> float:
        """Of the prediction from the measurement, relative to the latter."""
        return self.predicted_bytes / self.measured_bytes - 1
