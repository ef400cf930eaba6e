"""How long an update takes: a line fitted to measurements, and how far it is off where nothing was measured.

    seconds of an update = micro-batches x (a + b x FLOPs by token + c x FLOPs by pair) + d

a is what a micro-batch costs however small it is (calls of operations), b and c are the inverse rates of the two kinds
of work (`work.Work`), d is what an update costs however many rows it has: gradient clip, optimiser, exchange, records.
a, b, c come from nonnegative least squares on relative errors (Lawson and Hanson 1974, `scipy.optimize.nnls`), because
a microsecond matters in a short micro-batch and not in a long one; d is measured alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import nnls

from infra.errors import ConfigurationError
from model import ModelConfig
from tasks.calibration.measurement import Measurement
from tasks.calibration.setup import Variant
from tasks.calibration.work import Work, work_of

#: Fewer points say nothing of what lies between them.
FEWEST_POINTS = 3


class StepTime(BaseModel):
    """The fitted line for one variant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    seconds_per_micro_batch: float = Field(ge=0, description="a")
    seconds_per_flop: float = Field(ge=0, description="b, of the work that is the same for every token")
    seconds_per_pair_flop: float = Field(ge=0, description="c, of attention's work, which grows with the context")
    seconds_per_update: float = Field(ge=0, description="d")
    relative_error: float = Field(ge=0, description="root mean square, of points predicted from all other contexts")
    worst_error: float = Field(ge=0, description="the largest of these")

    def micro_batch_seconds(self, work: Work) -> float:
        """Forward and backward of one micro-batch."""
        return (
            self.seconds_per_micro_batch
            + self.seconds_per_flop * work.by_token
            + self.seconds_per_pair_flop * work.by_pair
        )

    def update_seconds(self, work: Work, micro_batches: int) -> float:
        """A whole update of so many equal micro-batches a rank."""
        return micro_batches * self.micro_batch_seconds(work) + self.seconds_per_update


def fit_step_time(model: ModelConfig, measurements: Sequence[Measurement]) -> StepTime:
    """The line through the measurements of one variant, and its error by leaving out each context in turn.

    Raises ConfigurationError when fewer than three points were measured.
    """
    if len(measurements) < FEWEST_POINTS:
        raise ConfigurationError(
            f"only {len(measurements)} configurations were measured, too few to tell others from.",
            "give the calibration more --seconds, or shorter --contexts.",
        )
    variant = measurements[0].variant
    works = [work_of(model, point.context_tokens, point.micro_batch, variant) for point in measurements]
    seconds = [point.micro_batch_seconds for point in measurements]
    rates = _rates(works, seconds)
    fixed = statistics.median(point.update_seconds for point in measurements)
    errors = _left_out_errors(works, measurements, fixed)
    spread = statistics.median(point.spread for point in measurements)
    return StepTime(
        variant=variant,
        seconds_per_micro_batch=rates[0],
        seconds_per_flop=rates[1],
        seconds_per_pair_flop=rates[2],
        seconds_per_update=fixed,
        # What measuring the same point again differs by is an error too, however well the line fits.
        relative_error=max(float(np.sqrt(np.mean(np.square(errors)))), spread),
        worst_error=max(abs(error) for error in errors),
    )


def _rates(works: Sequence[Work], seconds: Sequence[float]) -> tuple[float, float, float]:
    """(a, b, c) by nonnegative least squares on relative errors."""
    columns = np.array([[1.0, work.by_token, work.by_pair] for work in works])
    relative = columns / np.array(seconds)[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0  # a model without attention has no pairs
    solution, _ = nnls(relative / scale, np.ones(len(works)))
    a, b, c = (float(value) for value in solution / scale)
    return a, b, c


def _left_out_errors(works: Sequence[Work], measurements: Sequence[Measurement], fixed: float) -> list[float]:
    """Relative error of each point's update when its context is predicted from the others; of points where one has all.

    With a single context each point is left out in turn.
    """
    contexts = {point.context_tokens for point in measurements}
    groups = [point.context_tokens if len(contexts) > 2 else index for index, point in enumerate(measurements)]
    errors = []
    for group in dict.fromkeys(groups):
        kept = [index for index, other in enumerate(groups) if other != group]
        a, b, c = _rates([works[index] for index in kept], [measurements[index].micro_batch_seconds for index in kept])
        for index, point in enumerate(measurements):
            if groups[index] == group:
                predicted = a + b * works[index].by_token + c * works[index].by_pair + fixed
                errors.append(predicted / (point.micro_batch_seconds + point.update_seconds) - 1)
    return errors
