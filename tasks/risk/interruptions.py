"""Interrupted work, drawn exactly: every interruption with the work it undoes, not an average of them.

Interruptions come as a Poisson process while instances are paid for. A segment of w hours (work and its checkpoint)
succeeds at once with probability e^{-w/M}. A failed attempt has lasted for an exponential time cut off at its length;
then follow a wait for instances, a restart of R hours and the segment again, which together may fail likewise. Over n
equal segments the first failures are therefore binomial, the further ones negative binomial, and the time lost is a sum
of so many truncated exponentials: drawn as such, this is the process itself, without a loop over time (up to 256 of
them in a draw's stage; of more, the sum is drawn as the normal figure that it nearly is).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from tasks.risk.distributions import Floats
from tasks.risk.model import Interruptions
from tasks.risk.streams import Streams

#: Uniform numbers held at once for moments of failure.
_PIECE = 1 << 20
#: Times summed one by one. The sum of more is drawn as a normal figure of the exact mean and variance, which it is but
#: for a skewness below 2 / sqrt(256); how many there are stays exact.
_MOST_SUMMED = 256
_SERIES_BELOW = 1e-3


@dataclass(frozen=True)
class Interrupted:
    """Some work with its interruptions, [draws] each."""

    paid_hours: Floats
    wait_hours: Floats
    count: Floats


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the paid hours of one segment, and the mean number of its interruptions."""

    mean_hours: float
    variance_hours: float
    mean_count: float


def draw_interrupted(
    work_hours: Floats, rates: Floats, settings: Interruptions, streams: Streams, name: str
) -> Interrupted:
    """Carry out work [draws] under interruption rates [draws] per hour.

    The work is cut into segments of the checkpoint interval; what is left over is a last, shorter one with its own
    checkpoint.
    """
    interval, write = settings.checkpoint_interval_hours, settings.checkpoint_write_hours
    whole = np.floor(work_hours / interval)
    rest = work_hours - whole * interval
    last = (rest > 0).astype(np.float64)
    full = _draw_segments(whole, np.full_like(rest, interval + write), rates, settings, streams, f"{name}/whole")
    end = _draw_segments(last, rest + write, rates, settings, streams, f"{name}/last")
    return Interrupted(full.paid_hours + end.paid_hours, full.wait_hours + end.wait_hours, full.count + end.count)


def _draw_segments(
    segments: Floats, length: Floats, rates: Floats, settings: Interruptions, streams: Streams, name: str
) -> Interrupted:
    """`segments` [draws] segments of `length` [draws] hours each."""
    restart = settings.restart_hours
    survives = np.exp(-rates * (length + restart))
    first = _binomial(streams.uniform(f"{name}/first", len(rates)), segments, -np.expm1(-rates * length))
    further = _negative_binomial(streams.uniform(f"{name}/further", len(rates)), first, survives)
    lost = _truncated_sums(first, length, rates, streams, f"{name}/first/lost")
    lost += _truncated_sums(further, length + restart, rates, streams, f"{name}/further/lost")
    count = first + further
    # A segment that failed pays for one restart that succeeds; those that failed are in what was lost.
    return Interrupted(segments * length + first * restart + lost, count * settings.wait_hours, count)


def _binomial(share: Floats, trials: Floats, probability: Floats) -> Floats:
    """Successes in so many trials."""
    from scipy.stats import binom  # most of a second to import, which closed forms do without

    found = np.where(share > 1 - probability, trials, 0.0)  # right for one trial and for none
    several = trials > 1
    found[several] = binom.ppf(share[several], trials[several], probability[several])
    return found


def _negative_binomial(share: Floats, successes: Floats, probability: Floats) -> Floats:
    """Failures before so many successes; none where no success is needed."""
    from scipy.stats import nbinom

    found = np.zeros_like(share)
    some = successes > 0
    found[some] = nbinom.ppf(share[some], successes[some], probability[some])
    return found


def _truncated_sums(counts: Floats, length: Floats, rates: Floats, streams: Streams, name: str) -> Floats:
    """For each draw the sum of `counts` exponential times of its rate, each known to be shorter than `length`."""
    luck = streams.uniform(f"{name}/many", len(counts))
    many = counts > _MOST_SUMMED
    sums = _summed_one_by_one(np.where(many, 0, counts).astype(np.int64), length, rates, streams.generator(name))
    mean, variance = _truncated_moments(rates[many] * length[many])
    mean, variance = mean / rates[many], variance / rates[many] ** 2
    sums[many] = counts[many] * mean + np.sqrt(counts[many] * variance) * ndtri(luck[many])
    return sums


def _summed_one_by_one(
    counts: npt.NDArray[np.int64], length: Floats, rates: Floats, stream: np.random.Generator
) -> Floats:
    sums = np.zeros_like(length)
    ends = np.cumsum(counts)
    total, done = int(ends[-1]), 0
    while done < total:
        size = min(_PIECE, total - done)
        draw = np.searchsorted(ends, np.arange(done, done + size), side="right")
        cut = -np.expm1(-rates[draw] * length[draw])
        times = -np.log1p(-stream.random(size) * cut) / rates[draw]
        # One by one in their order, so that a draw's sum does not depend on which others are drawn with it.
        np.add.at(sums, draw, times)
        done += size
    return sums


def segment_moments(length_hours: float, restart_hours: float, rate: float) -> Moments:
    """Exact moments of one segment, in closed form.

    With N failures the paid time is the last, successful attempt plus N truncated exponentials: the first of an attempt
    without a restart before it, the rest of attempts with one.
    """
    if rate == 0:
        return Moments(length_hours, 0.0, 0.0)
    fails_first = -math.expm1(-rate * length_hours)
    fails_again = -math.expm1(-rate * (length_hours + restart_hours))
    means, variances = _truncated_moments(rate * np.array([length_hours, length_hours + restart_hours]))
    first_mean, again_mean = (float(mean) / rate for mean in means)
    first_variance, again_variance = (float(variance) / rate**2 for variance in variances)
    further = fails_again / (1 - fails_again)
    # After a first failure: restart, success, and a geometric number of further failed attempts.
    after_mean = first_mean + restart_hours + further * again_mean
    further_variance = fails_again / (1 - fails_again) ** 2
    after_variance = first_variance + further * again_variance + further_variance * again_mean**2
    mean = length_hours + fails_first * after_mean
    variance = fails_first * after_variance + fails_first * (1 - fails_first) * after_mean**2
    return Moments(mean, variance, fails_first * (1 + further))


def _truncated_moments(x: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of an exponential time of rate 1 known to be shorter than `x`, of any shape."""
    x = np.asarray(x, dtype=np.float64)
    small = x < _SERIES_BELOW  # the closed forms subtract numbers that are nearly equal there
    safe = np.where(small, 1.0, x)
    mean = np.where(small, x * (0.5 - x / 12), 1 - safe / np.expm1(safe))
    variance = np.where(small, x**2 * (1 / 12 - x**2 / 240), 1 - (safe / 2 / np.sinh(safe / 2)) ** 2)
    return mean, variance
