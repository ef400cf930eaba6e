"""What a plan is made for, and what it assumes."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model import ModelConfig
from tasks.training import TrainingStageConfig


class CorpusFacts(BaseModel):
    """How much text the pipeline reads and keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fetched_bytes: float = Field(ge=0, description="UTF-8 text read from the sources")
    kept_share: float = Field(0.5, gt=0, le=1, description="share of it that filters and deduplication leave")
    bytes_per_token: float = Field(4.2, gt=0, description="UTF-8 bytes a token")
    source: str = Field("", description="where these figures are from: the profile's mixture, or an assumption")

    @property
    def kept_bytes(self) -> float:
        """Text that is left to train on."""
        return self.fetched_bytes * self.kept_share

    @property
    def tokens(self) -> float:
        """Unique tokens that are left to train on."""
        return self.kept_bytes / self.bytes_per_token


class MeasuredRate(BaseModel):
    """How fast one stage trains on a machine, measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str = Field(description="name of the curriculum stage")
    context_tokens: int = Field(ge=1)
    tokens_per_second: float = Field(gt=0, description="of all ranks together")


class Machine(BaseModel):
    """A machine that was measured: "this machine" among the offers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field("this machine", description="as shown in tables")
    usd_per_hour: float = Field(ge=0)
    cores: int = Field(1, ge=1, description="that prepare data at once")
    rates: tuple[MeasuredRate, ...] = Field(
        min_length=1, description="stages that are not in it are scaled by FLOPs from the rate of the nearest context"
    )
    relative_error: float = Field(0.1, ge=0, description="one standard deviation of the rates, as a share")
    source: str = Field(description="which calibration, of which day and hardware")


class Assumptions(BaseModel):
    """What a plan takes for granted; every one can be set, and every default says where it is from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mfu: float | None = Field(
        None, gt=0, le=1, description="model FLOPs utilisation on every GPU; left out: by kind of GPU (`default_mfu`)"
    )
    contingency_share: float = Field(0.10, ge=0, description="added to the sum of everything else; the budget report's")
    evaluation_share: float = Field(
        0.02,
        ge=0,
        description="hours of evaluating, as a share of training's: assumed (11% in the 9 minutes of `smoke`)",
    )
    quantization_share: float = Field(
        0.01,
        ge=0,
        description="hours of quantizing, as a share of training's: assumed (8% in the 9 minutes of `smoke`)",
    )
    storage_months: float = Field(
        1.0, ge=0, description="months that data and checkpoints are kept beyond the training itself"
    )
    downloads: float = Field(1.0, ge=0, description="how often the finished model and its formats leave the provider")
    restart_hours: float = Field(
        0.25, ge=0, description="from a preemption until training goes on: a new instance, its software, the checkpoint"
    )
    core_speed: float = Field(1.0, gt=0, description="of a rented core, relative to the one of docs/benchmarks.md")
    whole_instances: bool = Field(
        True, description="train on all GPUs of the instances that are paid for, where the batches divide equally"
    )
    largest_fleet: int = Field(
        4, ge=1, description="how many times the GPUs of the profile may be rented to be done sooner (1, 2, 4, ...)"
    )
    has_reservations: bool = Field(
        False, description="reserved prices count for the hours used only, because the term is paid for anyway"
    )


class PlanRequest(BaseModel):
    """One pipeline profile, as far as its cost depends on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    profile: str = Field(description="name of the profile")
    model: ModelConfig
    stages: tuple[TrainingStageConfig, ...] = Field(min_length=1, description="the curriculum, resolved")
    corpus: CorpusFacts
    assumptions: Assumptions = Assumptions()
    machine: Machine | None = Field(None, description="a calibrated machine to set beside the offers")
    deadline_hours: float | None = Field(None, ge=0, description="longest training time, wall clock")
    budget_usd: float | None = Field(None, ge=0, description="most that may be spent, everything included")

    @model_validator(mode="after")
    def _stages_belong_together(self) -> Self:
        if len({stage.ranks for stage in self.stages}) > 1:
            raise ValueError("stages: all stages of a curriculum train on the same ranks; make them equal")
        if any(stage.model != self.model for stage in self.stages):
            raise ValueError("stages: every stage must train `model`")
        return self

    @property
    def ranks(self) -> int:
        """GPUs that the profile trains on."""
        return self.stages[0].ranks

    @property
    def training_tokens(self) -> int:
        """Tokens of all stages, in whole updates."""
        return sum(stage.steps * stage.batch_tokens for stage in self.stages)
