"""A candidate against a champion, item by item: paired bootstrap, Holm's correction, a verdict for each metric.

Both were asked the same items, so items are resampled together for both (Efron and Tibshirani 1993, 16.4; Koehn
2004 for language): what makes an item hard cancels out, and far smaller differences show than by comparing two scores.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.evaluation.items import Floats, ItemScores

RESAMPLES = 10_000
LEVEL = 0.05
#: With fewer items, resampling them says little of the items that were not drawn.
MINIMUM_ITEMS = 20
_BLOCK_BYTES = 64 << 20


class Verdict(StrEnum):
    """Of the candidate, after Holm's correction over all metrics."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "no difference shown"


@dataclass(frozen=True)
class Pairs:
    """The same items' values and weights for both models, each [items]."""

    candidate_values: Floats
    candidate_weights: Floats
    champion_values: Floats
    champion_weights: Floats

    def columns(self) -> Floats:
        """[items, 4]"""
        return np.stack(
            [self.candidate_values, self.candidate_weights, self.champion_values, self.champion_weights], axis=1
        )


@dataclass(frozen=True)
class MetricComparison:
    """One metric on the items that both models have; `difference` is candidate minus champion, in the metric's unit."""

    name: str
    higher_is_better: bool
    items: int
    candidate: float
    champion: float
    difference: float
    low: float  # 95% interval of the difference
    high: float
    p: float  # two-sided
    adjusted_p: float
    verdict: Verdict
    only_candidate: int = 0  # items that only one of them has
    only_champion: int = 0

    @property
    def direction(self) -> int:
        """1 where a positive difference is an improvement, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def text(self) -> str:
        """The difference with its interval and p."""
        return (
            f"{self.name} {self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}], p = {self.adjusted_p:.2g} "
            "after correction"
        )


@dataclass(frozen=True)
class Uncompared:
    """A metric that was left out, and why; `is_broken` when the candidate has values that are not finite."""

    name: str
    reason: str
    is_broken: bool = False


@dataclass(frozen=True)
class Comparison:
    """All metrics of two models; `not_run` says why there is none."""

    candidate: str
    champion: str
    metrics: tuple[MetricComparison, ...] = ()
    uncompared: tuple[Uncompared, ...] = ()
    not_run: str = ""
    resamples: int = RESAMPLES

    def with_verdict(self, verdict: Verdict) -> list[MetricComparison]:
        """The metrics with this verdict."""
        return [metric for metric in self.metrics if metric.verdict is verdict]

    @property
    def objections(self) -> list[str]:
        """What speaks against the candidate: metrics shown to be worse, and broken ones."""
        worse = [f"worse in {metric.text}" for metric in self.with_verdict(Verdict.WORSE)]
        return worse + [f"{one.name}: {one.reason}" for one in self.uncompared if one.is_broken]

    @property
    def sentence(self) -> str:
        """The outcome for a tag or a note."""
        if self.not_run:
            return f"Not compared with {self.champion}: {self.not_run}."
        counts = ", ".join(f"{verdict} in {len(self.with_verdict(verdict))}" for verdict in Verdict)
        left_out = f"; {len(self.uncompared)} not compared" if self.uncompared else ""
        named = "".join(f"; {objection}" for objection in self.objections)
        return f"Against {self.champion}: {counts} of {metrics_counted(len(self.metrics))}{left_out}{named}."

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return asdict(self) | {"sentence": self.sentence, "level": LEVEL}


def metrics_counted(count: int) -> str:
    """`1 metric`, `2 metrics`."""
    return f"{count} metric{'' if count == 1 else 's'}"


def compare(
    candidate: Sequence[ItemScores],
    champion: Sequence[ItemScores],
    names: tuple[str, str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare every metric that both have, on the items both have; the same scores give the same figures."""
    ours, theirs = ({one.name: one for one in scores} for scores in (candidate, champion))
    judged: list[MetricComparison] = []
    left_out: list[Uncompared] = []
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            left_out.append(Uncompared(name, f"only {names[0] if name in ours else names[1]} was measured on it"))
            continue
        result = _compare_one(ours[name], theirs[name], resamples, seed)
        (judged if isinstance(result, MetricComparison) else left_out).append(result)  # type: ignore[arg-type]
    metrics = tuple(_judged(judged))
    not_run = "" if metrics or any(one.is_broken for one in left_out) else _nothing_compared(left_out)
    return Comparison(*names, metrics, tuple(left_out), not_run, resamples)


def paired_bootstrap(pairs: Pairs, resamples: int, generator: np.random.Generator) -> Floats:
    """Resampled differences of sum(values) / sum(weights), candidate minus champion: [resamples].

    Equal items are drawn together: a resample's counts of them are multinomial, so that an accuracy, whose items
    are of four kinds, costs the same for any number of items.
    """
    columns, counts = np.unique(pairs.columns(), axis=0, return_counts=True)
    total, kinds = int(counts.sum()), len(counts)
    block = max(1, min(resamples, _BLOCK_BYTES // (8 * kinds)))
    differences = np.empty(resamples)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = _draw(counts, total, size, generator)
        sums = drawn @ columns
        differences[start : start + size] = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    return differences


def _draw(counts: npt.NDArray[np.int64], total: int, size: int, generator: np.random.Generator) -> Floats:
    """How often each kind of item is in each of `size` resamples of `total` items: [size, kinds]."""
    kinds = len(counts)
    if kinds * 8 <= total:  # a binomial draw a kind costs about eight times a uniform draw an item
        return generator.multinomial(total, counts / total, size=size).astype(np.float64)
    kind_of_item = np.repeat(np.arange(kinds), counts)
    drawn = np.empty((size, kinds))
    for row in drawn:
        row[:] = np.bincount(kind_of_item[generator.integers(0, total, total)], minlength=kinds)
    return drawn


def two_sided_p(differences: Floats) -> float:
    """Twice the smaller share of resamples on one side of zero, never below what so many resamples can show."""
    smaller = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + len(differences)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): reject those below the level, and at most `level` of all families err once."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def pair(candidate: ItemScores, champion: ItemScores) -> Pairs:
    """The items that both have, in the order of their keys; an item that occurs several times counts once, summed."""
    ours, theirs = _merged(candidate), _merged(champion)
    _, first, second = np.intersect1d(ours[0], theirs[0], assume_unique=True, return_indices=True)
    return Pairs(ours[1][first], ours[2][first], theirs[1][second], theirs[2][second])


def _merged(scores: ItemScores) -> tuple[npt.NDArray[np.str_], Floats, Floats]:
    keys, places = np.unique(np.array(scores.items, dtype=np.str_), return_inverse=True)
    values, weights = (
        np.asarray(np.bincount(places, column, minlength=len(keys)), dtype=np.float64)
        for column in (scores.values, scores.weights)
    )
    return keys, values, weights


def _compare_one(ours: ItemScores, theirs: ItemScores, resamples: int, seed: int) -> MetricComparison | Uncompared:
    """Without Holm's correction, which needs all metrics."""
    name = ours.name
    if ours.higher_is_better != theirs.higher_is_better:
        return Uncompared(name, "one counts more as better, the other less")
    pairs = pair(ours, theirs)
    count = len(pairs.candidate_values)
    if count < MINIMUM_ITEMS:
        number = "no item" if not count else f"only {count} item{'s' * (count > 1)}"
        return Uncompared(name, f"{number} in common, and a verdict needs {MINIMUM_ITEMS}")
    broken = int((~np.isfinite(pairs.candidate_values)).sum())
    if broken:
        return Uncompared(name, f"the candidate's value of {broken} of {count} items is not finite", is_broken=True)
    if not np.isfinite(pairs.champion_values).all():
        return Uncompared(name, "the champion has values that are not finite")
    # Its own stream a metric: one metric more changes no other's figures.
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    differences = paired_bootstrap(pairs, resamples, generator)
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    candidate = pairs.candidate_values.sum() / pairs.candidate_weights.sum()
    champion = pairs.champion_values.sum() / pairs.champion_weights.sum()
    return MetricComparison(
        name, ours.higher_is_better, count, float(candidate), float(champion), float(candidate - champion),
        float(low), float(high), two_sided_p(differences), 1.0, Verdict.UNDECIDED,
        len(set(ours.items) - set(theirs.items)), len(set(theirs.items) - set(ours.items)),
    )  # fmt: skip


def _judged(metrics: Sequence[MetricComparison]) -> list[MetricComparison]:
    """The metrics with Holm's correction over all of them, and their verdicts."""
    judged = []
    for metric, adjusted in zip(metrics, holm([metric.p for metric in metrics]), strict=True):
        verdict = Verdict.UNDECIDED
        if adjusted < LEVEL:
            verdict = Verdict.BETTER if metric.difference * metric.direction > 0 else Verdict.WORSE
        judged.append(MetricComparison(**{**vars(metric), "adjusted_p": adjusted, "verdict": verdict}))
    return judged


def _nothing_compared(left_out: Sequence[Uncompared]) -> str:
    if not left_out:
        return "neither evaluation has results item by item"
    return "; ".join(f"{one.name}: {one.reason}" for one in left_out)
