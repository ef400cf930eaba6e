"""What each remaining stage will take: training from rates, everything else from the last time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.budget import ComputePrice
from model.sizing import training_flops_per_token
from tasks.forecasting.estimates import Basis, StageEstimate
from tasks.forecasting.evidence import Evidence
from tasks.training import TrainingStageConfig

_LEAST_CALIBRATED_ERROR = 0.1
#: One standard deviation as a share. A rate measured in the stage itself varies with the machine's other work; the
#: rest are deliberately wide, because an estimate that is too sure would stop a run for nothing.
_ERRORS = {
    Basis.FINISHED: 0.0,
    Basis.RUNNING: 0.1,
    Basis.MEASURED: 0.1,
    Basis.CALIBRATED: _LEAST_CALIBRATED_ERROR,
    Basis.SCALED: 0.2,
    Basis.LAST_TIME: 0.25,
    Basis.ASSUMED: 0.5,
    Basis.SHARE: 1.0,
}
#: Seconds of the other stages over those of training in the smoke profile (docs/benchmarks.md: 57 s of evaluation and
#: 44 s of quantization to 538 s of training); what nobody has measured here is taken as so much.
_SHARES = {"evaluation": 0.11, "quantization": 0.08}
_SHARE_OF_OTHERS = 0.02
#: Seconds that starting, validation and checkpoints add to the updates, as a share, where no stage has told.
_OTHER_SHARE = 0.1


@dataclass(frozen=True)
class ForecastStage:
    """A stage that a run has before it, or has finished.

    training: its configuration, when it trains. done_steps: updates that a checkpoint already holds.
    remaining_seconds: what the stage itself tells while it runs.
    """

    name: str
    title: str
    training: TrainingStageConfig | None = None
    done_steps: int = 0
    finished: bool = False
    remaining_seconds: float | None = None


def estimate_stages(
    stages: Sequence[ForecastStage], evidence: Evidence, price: ComputePrice
) -> tuple[StageEstimate, ...]:
    """What is still to come, stage by stage."""
    unknown = [stage for stage in stages if stage.training and not stage.finished and stage.remaining_seconds is None]
    seconds = {stage.name: _training_seconds(stage, evidence) for stage in unknown}
    whole_training = sum(full for full, _ in seconds.values())
    whole_training += sum(_told_seconds(stage, evidence) for stage in stages if stage.training and stage not in unknown)
    estimates = []
    for stage in stages:
        remaining, error, basis = _remaining(stage, evidence, seconds.get(stage.name), whole_training)
        estimates.append(
            StageEstimate(
                name=stage.name, title=stage.title, seconds=remaining, usd=price.usd(remaining),
                relative_error=error, basis=basis,
            )
        )  # fmt: skip
    return tuple(estimates)


def _remaining(
    stage: ForecastStage, evidence: Evidence, trained: tuple[float, Basis] | None, whole_training: float
) -> tuple[float, float, Basis]:
    """(seconds still to come, relative error, basis)"""
    if stage.finished:
        return 0.0, 0.0, Basis.FINISHED
    if stage.remaining_seconds is not None:
        return stage.remaining_seconds, _ERRORS[Basis.RUNNING], Basis.RUNNING
    if stage.training is not None and trained is not None:
        full, basis = trained
        # What a stage takes beside its updates it takes again when it is continued.
        other = min(full, evidence.other_seconds)
        left = other + (full - other) * (1 - min(1.0, stage.done_steps / stage.training.steps))
        error = _ERRORS[basis]
        if basis is Basis.CALIBRATED:
            error = max(_LEAST_CALIBRATED_ERROR, evidence.calibrations[stage.name].relative_error_of(stage.training))
        return left, error, basis
    if stage.name in evidence.last_seconds:
        return evidence.last_seconds[stage.name], _ERRORS[Basis.LAST_TIME], Basis.LAST_TIME
    share = next((share for name, share in _SHARES.items() if name in stage.name), _SHARE_OF_OTHERS)
    return share * whole_training, _ERRORS[Basis.SHARE], Basis.SHARE


def _told_seconds(stage: ForecastStage, evidence: Evidence) -> float:
    """Seconds of a whole training stage that is finished or under way, as far as can be told."""
    known = evidence.rate_of(stage.training) if stage.training else None
    return _training_seconds(stage, evidence)[0] if known else stage.remaining_seconds or 0.0


def _training_seconds(stage: ForecastStage, evidence: Evidence) -> tuple[float, Basis]:
    """Seconds of the whole stage, from the best that is known."""
    config = stage.training
    assert config is not None
    tokens = config.steps * config.batch_tokens
    known = evidence.rate_of(config)
    if known is not None:
        return tokens / known.tokens_per_second + known.other_seconds, Basis.MEASURED
    if stage.name in evidence.calibrations:
        return evidence.calibrations[stage.name].stage_seconds(config), Basis.CALIBRATED
    flops = training_flops_per_token(config.stage_model, config.context_tokens).total
    near = evidence.nearest_rate(config)
    if near is not None:
        there = training_flops_per_token(config.stage_model, near.context_tokens).total
        return tokens / near.tokens_per_second * (flops / there) + near.other_seconds, Basis.SCALED
    if evidence.peak_flops_per_second is None:
        raise ValueError("evidence.peak_flops_per_second is needed where nothing was measured")
    updates = tokens * flops / (evidence.utilisation * evidence.peak_flops_per_second)
    return updates + (evidence.other_seconds or _OTHER_SHARE * updates), Basis.ASSUMED
