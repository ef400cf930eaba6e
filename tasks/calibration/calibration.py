"""A calibration: how fast this machine trains this model, and what that says of stages that were not measured."""

from __future__ import annotations

import hashlib
import math
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts.manifest import canonical_json
from infra.errors import ConfigurationError
from model import ModelConfig
from model.sizing import parameter_count
from tasks.calibration.hardware import Hardware
from tasks.calibration.measurement import Measurement, MemoryMeasurement
from tasks.calibration.setup import Setup, Variant, shape_of
from tasks.calibration.step_time import StepTime
from tasks.calibration.work import Work, useful_flops, work_of
from tasks.training import TrainingStageConfig

#: Added error for a model other than the measured one: so much at once, and so much for each factor of e between the
#: two models' FLOPs a token. Assumptions; `benchmarks/prediction_accuracy.py --what transfer` sets them beside a model
#: of thrice the work.
TRANSFER_ERROR = 0.15
TRANSFER_ERROR_PER_E_FOLD = 0.10
#: Added error for each setting in which a stage differs from the nearest that was measured: an assumption.
VARIANT_ERROR = 0.15


class Calibration(BaseModel):
    """Measured speed and memory of one model with one setup on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured_at: datetime = Field(description="UTC")
    hardware: Hardware
    setup: Setup
    model: ModelConfig
    torch_version: str
    peak_flops: float = Field(gt=0, description="FLOP/s of all ranks at best: the denominator of utilisation")
    peak_origin: str = Field(description="where that figure comes from")
    measurements: tuple[Measurement, ...] = Field(min_length=1)
    memory: tuple[MemoryMeasurement, ...] = ()
    step_times: tuple[StepTime, ...] = Field(min_length=1, description="one of each measured variant")
    startup_seconds: float = Field(ge=0, description="until a trainer's second update: loading, building, first calls")
    evaluation_share: float = Field(ge=0, description="seconds of a held-out micro-batch over those of a training one")
    checkpoint_stall_seconds: float = Field(ge=0, description="for which training stands still for one checkpoint")
    process_peak_bytes: int | None = Field(
        None,
        description="the trainer's process at its largest, libraries and the allocator's slack included",
    )
    other_load: float = Field(0.0, ge=0, le=1, description="share of the cores that other programs kept busy meanwhile")
    measuring_seconds: float = Field(ge=0, description="that all this took")
    transferred_from: ModelConfig | None = Field(
        None, description="the model that was measured, where `model` was not and its figures follow by FLOPs"
    )

    @property
    def digest(self) -> str:
        """Its name: the same for every calibration of equal model, setup and hardware."""
        return calibration_digest(self.model, self.setup, self.hardware)

    @property
    def relative_error(self) -> float:
        """What to expect of a predicted time, relative: the largest of the variants' cross-validated errors.

        Wider by the load of other programs while it was measured, which may be gone in the run.
        """
        return math.hypot(self.other_load, max(fitted.relative_error for fitted in self.step_times))

    def relative_error_of(self, stage: TrainingStageConfig) -> float:
        """As `relative_error`, of one stage: wider where its variant was not measured."""
        fitted = self._step_time(stage)
        unmeasured = VARIANT_ERROR * fitted.variant.differences(Variant.of(stage))
        return math.hypot(self.other_load, fitted.relative_error, unmeasured)

    def basis(self, stage: TrainingStageConfig) -> str:
        """Where a stage's figures come from, for people."""
        text = f"measured {self.measured_at:%Y-%m-%d} on {self.hardware.describe()}"
        if self.transferred_from is not None:
            parameters = parameter_count(self.transferred_from).total
            text += f", with another model ({parameters / 1e6:,.1f}M parameters)"
        fitted = self._step_time(stage)
        if fitted.variant != Variant.of(stage):
            text += f", with other settings ({fitted.variant.describe()})"
        return text

    def step_seconds(self, stage: TrainingStageConfig) -> float:
        """Seconds of one update; raises ConfigurationError for a stage of another model or setup."""
        fitted = self._step_time(stage)
        return fitted.update_seconds(self._work(stage), stage.batch_plan.accumulation)

    def tokens_per_second(self, stage: TrainingStageConfig) -> float:
        """Training tokens a second, all ranks together."""
        return stage.batch_tokens / self.step_seconds(stage)

    def mfu(self, stage: TrainingStageConfig) -> float:
        """Model FLOPs utilisation: the FLOPs a token needs, recomputation not counted, over the ranks' peak."""
        rate = self.tokens_per_second(stage)
        return useful_flops(stage.stage_model, stage.context_tokens, rate) / self.peak_flops

    def stage_seconds(self, stage: TrainingStageConfig) -> float:
        """The whole stage: start, all updates, validations and checkpoints."""
        validations, checkpoints = self._occasions(stage)
        plan = stage.batch_plan
        batches = math.ceil(stage.validation_rows / (plan.micro_batch * plan.data_ranks))
        held_out = self.evaluation_share * self._step_time(stage).micro_batch_seconds(self._work(stage)) * batches
        return (
            self.startup_seconds
            + stage.steps * self.step_seconds(stage)
            + validations * held_out
            + checkpoints * self.checkpoint_stall_seconds
        )

    def transfer(self, other: ModelConfig) -> Calibration:
        """What this says of another model on the same machine: equal rates of work, and a wider error.

        A micro-batch's fixed cost goes with the layers, an update's and a checkpoint's with the parameters.
        """
        layers = other.layer_count / self.model.layer_count
        parameters = parameter_count(other).total / parameter_count(self.model).total
        context = max(point.context_tokens for point in self.measurements)
        ratio = useful_flops(other, context, 1) / useful_flops(self.model, context, 1)
        added = TRANSFER_ERROR + TRANSFER_ERROR_PER_E_FOLD * abs(math.log(ratio))

        def scaled(fitted: StepTime) -> StepTime:
            return fitted.model_copy(
                update={
                    "seconds_per_micro_batch": fitted.seconds_per_micro_batch * layers,
                    "seconds_per_update": fitted.seconds_per_update * parameters,
                    "relative_error": math.hypot(fitted.relative_error, added),
                    "worst_error": math.hypot(fitted.worst_error, added),
                }
            )

        return self.model_copy(
            update={
                "model": other,
                "step_times": tuple(scaled(fitted) for fitted in self.step_times),
                "checkpoint_stall_seconds": self.checkpoint_stall_seconds * parameters,
                "memory": (),
                "process_peak_bytes": None,
                "transferred_from": self.transferred_from or self.model,
            }
        )

    def _work(self, stage: TrainingStageConfig) -> Work:
        return work_of(stage.stage_model, stage.context_tokens, stage.batch_plan.micro_batch, Variant.of(stage))

    def _step_time(self, stage: TrainingStageConfig) -> StepTime:
        """The line of the stage's variant, or of the nearest that was measured."""
        if shape_of(stage.model) != shape_of(self.model):
            raise ConfigurationError(
                f"stage '{stage.name}' trains another model than the one that was calibrated.",
                "calibrate its profile (`sam2 calibrate`), or use `transfer` for an estimate.",
            )
        if Setup.of(stage) != self.setup:
            raise ConfigurationError(
                f"stage '{stage.name}' trains with {Setup.of(stage).describe()}, but {self.setup.describe()} "
                "was calibrated.",
                "calibrate with the same settings (`sam2 calibrate --set ...`).",
            )
        variant = Variant.of(stage)
        return min(self.step_times, key=lambda fitted: fitted.variant.differences(variant))

    def _occasions(self, stage: TrainingStageConfig) -> tuple[int, int]:
        """(validations, checkpoints) of a stage, the ones before its first and after its last update included."""

        def times(every: int) -> int:
            return 1 + math.ceil(stage.steps / every)

        validations = times(stage.every(stage.validate_every_fraction)) if stage.validation_rows else 0
        by_count = times(stage.every(stage.checkpoint_every_fraction))
        by_time = 1 + int(stage.steps * self.step_seconds(stage) / stage.checkpoint_every_seconds)
        return validations, max(by_count, by_time)


def calibration_digest(model: ModelConfig, setup: Setup, hardware: Hardware) -> str:
    """Sixteen hexadecimal digits of what makes two calibrations measure the same."""
    content = {"model": shape_of(model), "setup": setup.model_dump(), "hardware": hardware.model_dump()}
    return hashlib.sha256(canonical_json(content)).hexdigest()[:16]
