"""Hours lost to interruptions against the checkpoint interval: expected in closed form, and as simulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra.errors import ConfigurationError
from tasks.risk.checkpoint_interval import daly_interval, exact_interval, expected_hours, young_interval
from tasks.risk.interruptions import draw_interrupted
from tasks.risk.model import Interruptions
from tasks.risk.streams import Streams

#: Intervals looked at by default: from an eighth to eight times the best one.
_SPAN = 8.0
_INTERVALS = 25
_DRAWS = 2000


class IntervalLoss(BaseModel):
    """Lost hours at one interval: expected, split into what writes checkpoints and what interruptions cost, and the
    5th and 95th percentile of the simulation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval_hours: float
    writing_hours: float
    interrupted_hours: float
    p05_hours: float
    p95_hours: float

    @property
    def expected_lost_hours(self) -> float:
        """All of it."""
        return self.writing_hours + self.interrupted_hours


class IntervalStudy(BaseModel):
    """The curve for `work_hours` of training, the three optima, and the interval that is set now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    work_hours: float
    mtbf_hours: float
    settings: Interruptions
    curve: tuple[IntervalLoss, ...]
    young_hours: float
    daly_hours: float
    exact_hours: float
    now: IntervalLoss
    best: IntervalLoss


def interval_study(
    settings: Interruptions, work_hours: float, *, intervals_hours: Sequence[float] = (), seed: int = 0
) -> IntervalStudy:
    """Study the interval at the mean interruption rate.

    Raises ConfigurationError when nothing interrupts or a checkpoint costs nothing to write: there is no best interval.
    """
    rate = settings.per_hour.mean
    write = settings.checkpoint_write_hours
    if rate == 0:
        raise ConfigurationError("nothing interrupts this training.", "give interruptions.per_hour above zero.")
    best = exact_interval(write, 1 / rate)
    chosen = list(intervals_hours) or list(best * np.geomspace(1 / _SPAN, _SPAN, _INTERVALS))
    return IntervalStudy(
        work_hours=work_hours,
        mtbf_hours=1 / rate,
        settings=settings,
        curve=tuple(_loss(settings, work_hours, float(interval), seed) for interval in chosen),
        young_hours=young_interval(write, 1 / rate),
        daly_hours=daly_interval(write, 1 / rate),
        exact_hours=best,
        now=_loss(settings, work_hours, settings.checkpoint_interval_hours, seed),
        best=_loss(settings, work_hours, best, seed),
    )


def _loss(settings: Interruptions, work_hours: float, interval: float, seed: int) -> IntervalLoss:
    rate, write = settings.per_hour.mean, settings.checkpoint_write_hours
    changed = settings.model_copy(update={"checkpoint_interval_hours": interval})
    work = np.full(_DRAWS, work_hours)
    drawn = draw_interrupted(work, np.full(_DRAWS, rate), changed, Streams(seed), "interval study")
    low, high = (float(end) for end in np.quantile(drawn.paid_hours - work, (0.05, 0.95)))
    writing = work_hours / interval * write
    paid = expected_hours(work_hours, interval, write, settings.restart_hours, 1 / rate)
    return IntervalLoss(
        interval_hours=interval,
        writing_hours=writing,
        interrupted_hours=paid - work_hours - writing,
        p05_hours=low,
        p95_hours=high,
    )
