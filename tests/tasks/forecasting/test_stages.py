"""Which evidence an estimate rests on, and what it comes to."""

from __future__ import annotations

import pytest

from infra.artifacts import Manifest
from infra.artifacts.manifest import StageCost
from infra.budget import Attempt, ComputePrice
from model import preset
from model.sizing import training_flops_per_token
from tasks.forecasting import Basis, Evidence, ForecastStage, estimate_stages, measured_rates
from tasks.forecasting.evidence import last_seconds
from tasks.training import TrainingStageConfig

PRICE = ComputePrice(provider="test", usd_per_hour=3.6, note="a tenth of a cent a second")


def stage(name: str = "short", context: int = 64, tokens: int = 64_000, **fields: object) -> TrainingStageConfig:
    return TrainingStageConfig.model_validate(
        {
            "name": name, "context_tokens": context, "tokens": tokens, "batch_tokens": 1024, "learning_rate": 1e-3,
            "model": preset("miniature"), **fields,
        }
    )  # fmt: skip


def manifest(config: TrainingStageConfig, tokens_per_second: float, seconds: float, created: str) -> Manifest:
    in_updates = config.steps * config.batch_tokens / tokens_per_second
    return Manifest(
        kind="checkpoint", fingerprint=created, stage="training", stage_version=2, config=config.identity(), inputs={},
        files=(), statistics={"seconds": in_updates}, metrics={"throughput/tokens_per_second": tokens_per_second},
        cost=StageCost(seconds=seconds), created_at=created,
    )  # fmt: skip


class Calibrated:
    def stage_seconds(self, config: TrainingStageConfig) -> float:
        return 7.0

    def relative_error_of(self, config: TrainingStageConfig) -> float:
        return 0.17


def one(config: TrainingStageConfig, evidence: Evidence, **fields: int) -> tuple[float, Basis, float]:
    found = estimate_stages([ForecastStage("training", "Training", config, **fields)], evidence, PRICE)[0]
    assert found.usd == pytest.approx(found.seconds / 1000)
    return found.seconds, found.basis, found.relative_error


def test_a_rate_of_the_same_model_and_context_comes_first() -> None:
    config = stage()
    rates = measured_rates([manifest(config, 1000.0, 80.0, "2026-01-02"), manifest(config, 500.0, 999.0, "2026-01-01")])
    seconds, basis, _ = one(config, Evidence(rates, calibrations={"training": Calibrated()}))
    assert (seconds, basis) == (pytest.approx(80.0), Basis.MEASURED)  # the newest, all its seconds


def test_updates_that_a_checkpoint_holds_are_not_paid_again() -> None:
    config = stage()
    evidence = Evidence(measured_rates([manifest(config, 1000.0, 80.0, "2026-01-02")]))
    whole, _, _ = one(config, evidence)
    half, _, _ = one(config, evidence, done_steps=config.steps // 2)
    in_updates = 63.488
    assert whole == pytest.approx(80.0)
    assert half == pytest.approx(80.0 - in_updates * (config.steps // 2) / config.steps), "it has to start again"


def test_a_calibration_comes_before_another_context() -> None:
    rates = measured_rates([manifest(stage(context=128), 1000.0, 80.0, "2026-01-02")])
    assert one(stage(), Evidence(rates, calibrations={"training": Calibrated()})) == (7.0, Basis.CALIBRATED, 0.17)


def test_another_context_is_scaled_by_its_flops() -> None:
    config, other = stage(context=512), stage(context=128)
    evidence = Evidence(measured_rates([manifest(other, 1000.0, 70.488, "2026-01-02")]))
    ratio = training_flops_per_token(config.model, 512).total / training_flops_per_token(config.model, 128).total
    seconds, basis, _ = one(config, evidence)
    assert basis is Basis.SCALED
    assert seconds == pytest.approx(63.488 * ratio + 7.0)
    assert ratio > 1


@pytest.mark.parametrize("changed", [{"threads_per_rank": 1}, {"gradient_checkpointing": True}])
def test_a_stage_of_another_speed_tells_nothing(changed: dict[str, object]) -> None:
    rates = measured_rates([manifest(stage(**changed), 1000.0, 80.0, "2026-01-02")])
    evidence = Evidence(rates, peak_flops_per_second=1e10)
    seconds, basis, error = one(stage(), evidence)
    flops = 63_488 * training_flops_per_token(preset("miniature"), 64).total
    assert (basis, error) == (Basis.ASSUMED, 0.5)
    updates = flops / (0.4 * 1e10)
    assert seconds == pytest.approx(updates + 16.512), "another model's stage tells what starting takes"
    alone, _, _ = one(stage(), Evidence(peak_flops_per_second=1e10))
    assert alone == pytest.approx(1.1 * updates)


def test_a_last_attempt_shorter_than_its_updates_says_nothing_of_what_is_beside_them() -> None:
    rate = measured_rates([manifest(stage(), 1000.0, 3.0, "2026-01-02")])[0]
    assert rate.other_seconds == 0.0


def test_other_stages_take_what_they_took_last_time_else_a_share_of_the_training() -> None:
    stages = [
        ForecastStage("download", "Download", finished=True),
        ForecastStage("training", "Training", stage()),
        ForecastStage("evaluation", "Evaluation"),
        ForecastStage("quantization", "Quantization"),
    ]
    evidence = Evidence(last_seconds={"evaluation": 42.0}, calibrations={"training": Calibrated()})
    found = {entry.name: entry for entry in estimate_stages(stages, evidence, PRICE)}
    assert (found["download"].usd, found["download"].basis) == (0.0, Basis.FINISHED)
    assert (found["evaluation"].seconds, found["evaluation"].basis) == (42.0, Basis.LAST_TIME)
    assert (found["quantization"].seconds, found["quantization"].basis) == (pytest.approx(0.08 * 7.0), Basis.SHARE)


def test_a_running_stage_tells_itself() -> None:
    running = ForecastStage("training", "Training", stage(), remaining_seconds=12.0)
    found = estimate_stages([running, ForecastStage("evaluation", "Evaluation")], Evidence(), PRICE)
    assert (found[0].seconds, found[0].basis) == (12.0, Basis.RUNNING)
    assert found[1].seconds == pytest.approx(0.11 * 12.0)


def test_the_last_completed_attempt_of_the_profile_counts() -> None:
    def attempt(profile: str, outcome: str, seconds: float) -> Attempt:
        return Attempt("id", "run", profile, "download", "test", 1.0, 0.0, seconds, outcome)

    attempts = [
        attempt("mine", "completed", 5.0), attempt("mine", "completed", 6.0), attempt("mine", "reused", 0.1),
        attempt("mine", "failed", 9.0), attempt("other", "completed", 7.0),
    ]  # fmt: skip
    assert last_seconds(attempts, "mine") == {"download": 6.0}


def test_nothing_known_at_all_is_told_as_such() -> None:
    with pytest.raises(ValueError, match="peak_flops_per_second"):
        estimate_stages([ForecastStage("training", "Training", stage())], Evidence(), PRICE)
