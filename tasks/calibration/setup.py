"""What of a training configuration decides its speed: the setup of all stages, and each stage's variant."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from model import ModelConfig
from tasks.training import TrainingStageConfig

#: Fields of a model that change neither its weights' shapes nor the work done on a token.
_FREE_MODEL_FIELDS: dict[str, Any] = {
    "rope_theta": 1e4,
    "maximum_context": 1,
    "norm_eps": 1e-6,
    "linear_initializer_scale": 1.0,
    "embedding_initializer_std": None,
}


class Setup(BaseModel):
    """What all stages of one calibration have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: int = Field(1, ge=1, description="processes that train together")
    threads_per_rank: int = Field(2, ge=1, description="CPU threads of each rank")
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["adamw", "muon"] = "adamw"

    @classmethod
    def of(cls, stage: TrainingStageConfig) -> Self:
        """A stage's."""
        return cls(**{name: getattr(stage, name) for name in cls.model_fields})

    def describe(self) -> str:
        """One line for people."""
        return f"{self.ranks} rank(s) of {self.threads_per_rank} threads, {self.precision}, {self.optimizer}"


class Variant(BaseModel):
    """What may differ from stage to stage of a curriculum, and is measured apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zero_stage: Literal[0, 1, 2, 3] = 0
    gradient_checkpointing: bool = False
    sequence_parallel: int = Field(1, ge=1)
    feed_forward_chunk_tokens: int | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False
    offload_activations: bool = False

    @classmethod
    def of(cls, stage: TrainingStageConfig) -> Self:
        """A stage's."""
        return cls(**{name: getattr(stage, name) for name in cls.model_fields})

    def differences(self, other: Variant) -> int:
        """Settings in which two variants differ."""
        return sum(getattr(self, name) != getattr(other, name) for name in type(self).model_fields)

    def describe(self) -> str:
        """The settings that are not the plain ones, for people."""
        plain = Variant()
        told = {name: value for name, value in self if value != getattr(plain, name)}
        return ", ".join(f"{name}={value}" for name, value in told.items()) or "plain"


def shape_of(model: ModelConfig) -> dict[str, Any]:
    """A model's fields that decide how long a token takes; equal for models of equal speed."""
    fields = model.model_dump(mode="json") | _FREE_MODEL_FIELDS
    return fields | {"pattern": list(model.mixer_kinds), "layer_kinds": None}
