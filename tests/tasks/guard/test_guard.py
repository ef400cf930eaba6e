"""When the guard lets a stage go on, warns, holds it and ends it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from infra.artifacts import Manifest
from infra.budget import ComputePrice, Ledger
from model import preset
from tasks.forecasting import Basis, Evidence, Forecast, ForecastStage
from tasks.guard import BudgetGuard, BudgetHold, GuardConfig
from tasks.guard import guard as guard_module
from tasks.training import TrainingStageConfig

#: A dollar a second.
PRICE = ComputePrice(provider="test", usd_per_hour=3600.0, note="")
PROFILE = "mine"


class Clock:
    """Stands still until it is told."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Calibrated:
    """Training takes a hundred seconds."""

    def stage_seconds(self, config: TrainingStageConfig) -> float:
        return 100.0

    def relative_error_of(self, config: TrainingStageConfig) -> float:
        return 0.1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(guard_module, "time", clock)
    return clock


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


def training_stage(name: str = "short", context: int = 64) -> TrainingStageConfig:
    return TrainingStageConfig.model_validate(
        {
            "name": name, "context_tokens": context, "tokens": 102_400, "batch_tokens": 1024, "learning_rate": 1e-3,
            "model": preset("miniature"),
        }
    )  # fmt: skip


def make(
    ledger: Ledger, ceiling_usd: float | None, told: list[Forecast] | None = None, **config: object
) -> BudgetGuard:
    stages = [
        ForecastStage("download", "Download", finished=True),
        ForecastStage("training", "Training", training_stage()),
        ForecastStage("evaluation", "Evaluation"),
    ]
    return BudgetGuard(
        GuardConfig.model_validate(config),
        ledger,
        PROFILE,
        PRICE,
        ceiling_usd,
        stages,
        Evidence(last_seconds={"evaluation": 10.0}, calibrations={"training": Calibrated()}),
        logging.getLogger("test"),
        (told if told is not None else []).append,
    )


def test_enough_money_passes_in_silence(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Forecast] = []
    forecast = make(ledger, 200.0, told).before("training")
    assert forecast.expected_usd == pytest.approx(110.0)
    assert told == [forecast]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_ceiling_within_the_interval_warns_once(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    guard = make(ledger, 118.0)
    guard.before("training")
    guard.before("training")
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_ceiling_below_the_forecast_holds_before_anything_is_spent(ledger: Ledger) -> None:
    with pytest.raises(BudgetHold, match=r"likely to cost more than its ceiling of \$100\.00") as caught:
        make(ledger, 100.0).before("training")
    assert (caught.value.stage, caught.value.final) == ("training", False)
    assert caught.value.forecast.spent_usd == 0


def test_no_stage_starts_once_the_money_is_spent_by_whatever_run(ledger: Ledger) -> None:
    for profile in (PROFILE, "another"):
        with ledger.attempt(run_id="earlier", profile=profile, stage="download", price=PRICE):
            time.sleep(0.01)
    spent = ledger.total_usd(profile=PROFILE)
    with pytest.raises(BudgetHold, match="is reached in stage 'evaluation'") as caught:
        make(ledger, spent, on_overspend="warn").before("evaluation")
    assert caught.value.final
    make(ledger, spent + ledger.total_usd(profile="another") + 200).before("evaluation")


def test_a_finished_stage_is_never_held(ledger: Ledger) -> None:
    make(ledger, 1.0).before("download")


def test_without_a_ceiling_it_only_forecasts(ledger: Ledger) -> None:
    assert make(ledger, None).before("training").expected_usd == pytest.approx(110.0)


def test_only_warn_never_holds_for_a_forecast(ledger: Ledger) -> None:
    make(ledger, 50.0, on_overspend="warn").before("training")


def test_training_is_forecast_every_so_many_updates(ledger: Ledger, clock: Clock) -> None:
    told: list[Forecast] = []
    watch = make(ledger, 1000.0, told, every_steps=20, settling_steps=5).watch("training", "attempt")
    due = []
    for step in range(1, 61):
        clock.now += 1
        if watch(step / 100, {"step": step, "train/eta_seconds": 100.0 - step}):
            due.append(step)
    assert due == [5, 25, 45]
    assert [forecast.spent_usd for forecast in told] == [5.0, 25.0, 45.0]
    assert told[-1].expected_usd == pytest.approx(45 + 55 + 10)
    assert told[-1].stages[1].basis is Basis.RUNNING


def test_a_stage_slower_than_planned_is_held_on_its_way(ledger: Ledger, clock: Clock) -> None:
    """Planned at 100 s, it turns out to need 200: held with most of the money unspent."""
    watch = make(ledger, 130.0, settling_steps=5).watch("training", "attempt")
    with pytest.raises(BudgetHold) as caught:
        for step in range(1, 101):
            clock.now += 2
            watch(step / 100, {"step": step, "train/eta_seconds": 200.0 - 2 * step})
    assert caught.value.forecast.spent_usd == 10.0
    assert caught.value.forecast.expected_usd == pytest.approx(210.0)
    assert not caught.value.final


def test_the_ceiling_itself_ends_a_stage_at_once_whatever_was_forecast(ledger: Ledger, clock: Clock) -> None:
    watch = make(ledger, 30.0, on_overspend="warn").watch("training", "attempt")
    with pytest.raises(BudgetHold, match="is reached in stage 'training'") as caught:
        for step in range(1, 101):
            clock.now += 1
            watch(step / 100, {"step": step, "train/eta_seconds": 100.0})
    assert caught.value.final
    assert caught.value.forecast.spent_usd == 30.0


def test_other_attempts_of_the_profile_count_and_its_own_is_not_counted_twice(ledger: Ledger, clock: Clock) -> None:
    for profile in (PROFILE, "another"):
        with ledger.attempt(run_id="r", profile=profile, stage="s", price=PRICE):
            pass
    with ledger.attempt(run_id="r", profile=PROFILE, stage="training", price=PRICE) as own:
        before = sum(attempt.usd for attempt in ledger.attempts() if attempt.profile == PROFILE)
        watch = make(ledger, 1e6, settling_steps=1).watch("training", own.attempt_id)
        clock.now += 100
        forecast = watch(0.5, {"step": 1, "train/eta_seconds": 0.0})
    assert forecast is not None
    assert forecast.spent_usd == pytest.approx(100.0 + before, abs=0.2)


def test_a_stage_without_updates_is_judged_by_its_fraction(ledger: Ledger, clock: Clock) -> None:
    watch = make(ledger, 1000.0, every_seconds=10.0).watch("evaluation", "attempt")
    clock.now += 9
    assert watch(0.5, None) is None
    clock.now += 11
    assert watch(0.05, {"eval/items": 3.0}) is None  # too little to tell anything
    forecast = watch(0.25, None)
    assert forecast is not None
    assert forecast.stages[2].seconds == pytest.approx(60.0)


def test_what_a_finished_stage_taught_is_used_for_the_next(ledger: Ledger) -> None:
    stages = [
        ForecastStage("training-1", "1", training_stage()),
        ForecastStage("training-2", "2", training_stage("long", 128)),
    ]
    evidence = Evidence(peak_flops_per_second=1e9)
    guard = BudgetGuard(GuardConfig(), ledger, PROFILE, PRICE, None, stages, evidence, logging.getLogger("test"))
    assert {stage.basis for stage in guard.forecast().stages} == {Basis.ASSUMED}
    config = training_stage()
    manifest = Manifest(
        kind="checkpoint", fingerprint="f", stage="training", stage_version=2, config=config.identity(), inputs={},
        files=(), metrics={"throughput/tokens_per_second": 1024.0}, created_at="2026-01-01",
    )  # fmt: skip
    guard.finished("training-1", manifest)
    first, second = guard.forecast().stages
    assert (first.basis, first.seconds) == (Basis.FINISHED, 0.0)
    assert second.basis is Basis.SCALED
    assert 100 < second.seconds < 150  # a little more than a hundred updates of a second, for the longer context


def test_the_stages_after_a_running_one_are_judged_by_its_speed(ledger: Ledger, clock: Clock) -> None:
    stages = [
        ForecastStage("training-1", "1", training_stage()),
        ForecastStage("training-2", "2", training_stage("long", 128)),
    ]
    evidence = Evidence(peak_flops_per_second=1e18)  # far too fast
    guard = BudgetGuard(
        GuardConfig(settling_steps=1), ledger, PROFILE, PRICE, None, stages, evidence, logging.getLogger("test")
    )
    report = {"step": 1, "train/eta_seconds": 99.0, "throughput/tokens_per_second": 1024.0}
    forecast = guard.watch("training-1", "attempt")(0.01, report)
    assert forecast is not None
    assert forecast.stages[1].basis is Basis.SCALED
    assert 100 < forecast.stages[1].seconds < 150
    assert guard.forecast().stages[1].basis is Basis.ASSUMED, "nothing is learnt from it for good until it is finished"


def test_a_warning_above_the_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warn_probability 0\.6 exceeds suspend_probability 0\.5; lower it"):
        GuardConfig(warn_probability=0.6)
