"""Watches what a run spends and will have spent, and raises `BudgetHold` where it must not go on.

A hold raised while a stage works ends the stage as SIGTERM would: training leaves a checkpoint after its current
update, other stages keep their finished shards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from infra.artifacts import Manifest
from infra.budget import ComputePrice, Ledger
from infra.errors import BudgetExceeded
from tasks.forecasting import Evidence, Forecast, ForecastStage, estimate_stages
from tasks.forecasting.evidence import TrainingRate, rate_of_manifest, speed_key
from tasks.guard.config import GuardConfig
from tasks.reporting.formatting import dollars

#: What a stage reports of its remaining time, in seconds.
ETA_METRIC = "train/eta_seconds"
SPEED_METRIC = "throughput/tokens_per_second"
#: Other runs of the same profile may spend meanwhile: what they did is looked up so often.
_LEDGER_SECONDS = 5.0
#: A stage's own progress tells its remaining time once so much of it is done.
_TELLING_FRACTION = 0.1

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class BudgetHold(BudgetExceeded):
    """The run must not go on as it is. `final`: the ceiling itself is reached, nobody needs to be asked."""

    def __init__(self, problem: str, stage: str, forecast: Forecast, *, final: bool) -> None:
        super().__init__(problem, "raise budget.ceiling_usd; every finished stage is kept and reused.")
        self.stage = stage
        self.forecast = forecast
        self.final = final


class BudgetGuard:
    """Forecasts a run as a whole; `before` each stage, and in a `StageWatch` while it works.

    stages: in order, as they stand. on_forecast is told every forecast that was made.
    """

    def __init__(
        self,
        config: GuardConfig,
        ledger: Ledger,
        profile: str,
        price: ComputePrice,
        ceiling_usd: float | None,
        stages: Sequence[ForecastStage],
        evidence: Evidence,
        log: Log,
        on_forecast: Callable[[Forecast], None] = lambda forecast: None,
    ) -> None:
        self.config, self.price, self.ceiling_usd, self.profile = config, price, ceiling_usd, profile
        self.evidence = evidence
        self._ledger = ledger
        self._stages = {stage.name: stage for stage in stages}
        self._log = log
        self._on_forecast = on_forecast
        self._warned = False
        self.hold: BudgetHold | None = None  # what ended a stage, for whoever ran it

    def spent_usd(self, *, without: str | None = None) -> float:
        """Of the profile, all runs and attempts together; `without`: an attempt that is left out."""
        attempts = self._ledger.attempts()
        return sum(a.usd for a in attempts if a.profile == self.profile and a.attempt_id != without)

    def forecast(self, spent_usd: float | None = None, running: TrainingRate | None = None) -> Forecast:
        """The end of the run as seen from now; running: what the stage that trains tells of those after it."""
        spent = self.spent_usd() if spent_usd is None else spent_usd
        evidence = self.evidence
        if running is not None:  # of other contexts than the running one's, what was measured there comes first
            evidence = replace(evidence, rates=(*evidence.rates, running))
        stages = estimate_stages(list(self._stages.values()), evidence, self.price)
        return Forecast(spent_usd=spent, stages=stages)

    def rate_of(self, name: str, tokens_per_second: float, start_seconds: float) -> TrainingRate | None:
        """The speed of a stage that trains, as evidence; None for one that does not."""
        config = self._stages[name].training
        if config is None or not tokens_per_second > 0:
            return None
        key = speed_key(config.model_dump(mode="json"))
        return TrainingRate(key, config.context_tokens, tokens_per_second, start_seconds)

    def before(self, name: str) -> Forecast:
        """Look ahead before a stage starts. Raises BudgetHold."""
        stage = self._stages[name]
        forecast = self.forecast()
        if not stage.finished:  # what is finished costs nothing more
            self._log.info("budget before %s: %s", name, forecast.describe(self.ceiling_usd))
            self._judge(name, forecast)
        else:
            self._on_forecast(forecast)
        return forecast

    def finished(self, name: str, manifest: Manifest) -> None:
        """A stage is done, and may have taught how fast training is."""
        self._stages[name] = replace(self._stages[name], finished=True, remaining_seconds=None)
        rate = rate_of_manifest(manifest)
        if rate is not None and rate not in self.evidence.rates:
            self.evidence = replace(self.evidence, rates=(*self.evidence.rates, rate))

    def watch(self, name: str, attempt_id: str) -> StageWatch:
        """For the progress of a stage's attempt."""
        return StageWatch(self, name, attempt_id)

    def progressed(
        self, name: str, remaining_seconds: float, spent_usd: float, running: TrainingRate | None = None
    ) -> Forecast:
        """A stage tells how long it will still take, and how fast it trains. Raises BudgetHold."""
        self._stages[name] = replace(self._stages[name], remaining_seconds=remaining_seconds)
        forecast = self.forecast(spent_usd, running)
        self._judge(name, forecast)
        return forecast

    def check_spent(self, name: str, spent_usd: float) -> None:
        """Raise a final BudgetHold when the ceiling is reached, whatever was forecast."""
        if self.ceiling_usd is None or spent_usd < self.config.stop_share * self.ceiling_usd:
            return
        share = "" if self.config.stop_share == 1 else f"{self.config.stop_share:.0%} of "
        problem = (
            f"profile '{self.profile}' has spent {dollars(spent_usd)}: {share}its ceiling of "
            f"{dollars(self.ceiling_usd)} is reached in stage '{name}'."
        )
        raise BudgetHold(problem, name, self.forecast(spent_usd), final=True)

    def _judge(self, name: str, forecast: Forecast) -> None:
        self._on_forecast(forecast)
        self.check_spent(name, forecast.spent_usd)
        if self.ceiling_usd is None:
            return
        risk = forecast.probability_over(self.ceiling_usd)
        if risk >= self.config.suspend_probability and self.config.on_overspend != "warn":
            problem = (
                f"profile '{self.profile}' is {risk:.0%} likely to cost more than its ceiling of "
                f"{dollars(self.ceiling_usd)}: {forecast.describe()}. Held in stage '{name}'."
            )
            raise BudgetHold(problem, name, forecast, final=False)
        if risk >= self.config.warn_probability:
            if not self._warned:
                self._log.warning("budget: %s", forecast.describe(self.ceiling_usd))
            self._warned = True
        else:
            self._warned = False


class StageWatch:
    """Called with every report of one attempt of one stage; cheap unless a forecast is due."""

    def __init__(self, guard: BudgetGuard, name: str, attempt_id: str) -> None:
        self._guard, self._name, self._attempt_id = guard, name, attempt_id
        self._started = self._last_forecast = self._last_ledger = time.monotonic()
        self._others = guard.spent_usd(without=attempt_id)
        self._first_step: int | None = None
        self._start_seconds = 0.0  # until the first update: loading, building, restoring
        self._forecast_step = 0

    def __call__(self, fraction: float, metrics: Mapping[str, float] | None) -> Forecast | None:
        """Look at one report; the forecast where one was due. Raises BudgetHold."""
        spent = self._spent()
        self._guard.check_spent(self._name, spent)
        remaining = self._remaining(fraction, metrics or {})
        if remaining is None:
            return None
        self._last_forecast = time.monotonic()
        speed = (metrics or {}).get(SPEED_METRIC, 0.0)
        running = self._guard.rate_of(self._name, speed, self._start_seconds)
        return self._guard.progressed(self._name, remaining, spent, running)

    def _spent(self) -> float:
        now = time.monotonic()
        if now - self._last_ledger >= _LEDGER_SECONDS:
            self._last_ledger = now
            self._others = self._guard.spent_usd(without=self._attempt_id)
        return self._others + self._guard.price.usd(now - self._started)

    def _remaining(self, fraction: float, metrics: Mapping[str, float]) -> float | None:
        """Seconds, where a forecast is due and the stage can tell."""
        config = self._guard.config
        if ETA_METRIC in metrics:
            step = int(metrics.get("step", 0))
            if self._first_step is None:
                self._first_step = self._forecast_step = step - 1
                self._start_seconds = time.monotonic() - self._started
            settled = step - self._first_step >= config.settling_steps
            first = self._forecast_step == self._first_step
            due = settled and (first or step - self._forecast_step >= config.every_steps)
            if not due or metrics[ETA_METRIC] != metrics[ETA_METRIC]:  # not a number before the first update
                return None
            self._forecast_step = step
            return metrics[ETA_METRIC]
        elapsed = time.monotonic() - self._started
        if time.monotonic() - self._last_forecast < config.every_seconds or fraction < _TELLING_FRACTION:
            return None
        return elapsed * (1 - min(1.0, fraction)) / fraction
