"""What is known of how fast things go here: rates measured in training, times of earlier attempts, a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from infra.artifacts import Manifest
from infra.budget import Attempt
from model import ModelConfig
from tasks.training import TrainingStageConfig

#: What a stage's cost depends on besides the model, the context and the tokens.
_OF_THE_SPEED = ("ranks", "threads_per_rank", "precision", "zero_stage", "gradient_checkpointing", "optimizer")
#: What may differ between two models of one speed.
_OF_THE_LENGTH = ("maximum_context", "rope_theta")


@dataclass(frozen=True)
class TrainingRate:
    """A stage that was trained: tokens a second in updates, and its other seconds (start, validation, writing out)."""

    key: tuple[str, ...]
    context_tokens: int
    tokens_per_second: float
    other_seconds: float


class CalibratedSpeed(Protocol):
    """What a calibration tells (`tasks.calibration.Calibration`)."""

    def stage_seconds(self, stage: TrainingStageConfig) -> float:
        """Seconds of all the stage's updates, validation and checkpoints."""

    def relative_error_of(self, stage: TrainingStageConfig) -> float:
        """What to expect of that figure, relative."""


@dataclass(frozen=True)
class Evidence:
    """All that estimates may rest on. Rates and seconds are of this home's own runs, the newest last."""

    rates: tuple[TrainingRate, ...] = ()
    last_seconds: Mapping[str, float] = field(default_factory=dict)  # by stage name
    calibrations: Mapping[str, CalibratedSpeed] = field(default_factory=dict)  # by stage name
    peak_flops_per_second: float | None = None  # of all ranks
    utilisation: float = 0.4

    def rate_of(self, stage: TrainingStageConfig) -> TrainingRate | None:
        """The newest rate of this model at this context."""
        found = [rate for rate in self._rates_of(stage) if rate.context_tokens == stage.context_tokens]
        return found[-1] if found else None

    def nearest_rate(self, stage: TrainingStageConfig) -> TrainingRate | None:
        """The newest rate of this model at the context that differs least, by ratio."""

        def apart(rate: TrainingRate) -> float:
            contexts = (rate.context_tokens, stage.context_tokens)
            return max(contexts) / min(contexts)

        return min(reversed(self._rates_of(stage)), key=apart, default=None)

    @property
    def other_seconds(self) -> float:
        """What a training stage takes beside its updates, by the newest stage that tells; 0 when none does."""
        return next((rate.other_seconds for rate in reversed(self.rates) if rate.other_seconds > 0), 0.0)

    def _rates_of(self, stage: TrainingStageConfig) -> list[TrainingRate]:
        key = speed_key(stage.model_dump(mode="json"))
        return [rate for rate in self.rates if rate.key == key]


def measured_rates(manifests: Iterable[Manifest]) -> tuple[TrainingRate, ...]:
    """The rates that finished training stages tell, oldest first."""
    found = []
    for manifest in sorted(manifests, key=lambda manifest: manifest.created_at):
        rate = rate_of_manifest(manifest)
        if rate is not None:
            found.append(rate)
    return tuple(found)


def rate_of_manifest(manifest: Manifest) -> TrainingRate | None:
    """What a finished training stage tells of speed; None for an artifact of another kind."""
    tokens_per_second = manifest.metrics.get("throughput/tokens_per_second")
    if manifest.stage != "training" or not tokens_per_second:
        return None
    in_updates = float(manifest.statistics.get("seconds", 0.0))
    # A stage that was built in several attempts has a last one shorter than its updates: nothing to learn from.
    other = max(0.0, manifest.cost.seconds - in_updates) if in_updates else 0.0
    key = speed_key(manifest.config)
    return TrainingRate(key, int(manifest.config["context_tokens"]), tokens_per_second, other)


def last_seconds(attempts: Iterable[Attempt], profile: str) -> dict[str, float]:
    """Seconds of the newest attempt of every stage of a profile that ran to its end, by stage name."""
    return {
        attempt.stage: attempt.seconds
        for attempt in attempts
        if attempt.profile == profile and attempt.outcome == "completed"
    }


def speed_key(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What two training stages must share for the speed of one to tell that of the other."""
    model = config["model"]
    shape = model.model_dump(mode="json") if isinstance(model, ModelConfig) else dict(model)
    shared = [f"{name}={shape[name]}" for name in sorted(shape) if name not in _OF_THE_LENGTH]
    return (*shared, *(f"{name}={config.get(name)}" for name in _OF_THE_SPEED))
