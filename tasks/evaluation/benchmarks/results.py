"""What came of a benchmark, as files and tables hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from tasks.evaluation.benchmarks.catalog import BENCHMARKS, Benchmark
from tasks.evaluation.items import ItemScores


class Status(StrEnum):
    """What is not measured is never a zero."""

    MEASURED = "measured"
    NOT_RUN = "not run"
    FAILED = "failed"


@dataclass(frozen=True)
class Measured:
    """One metric and the standard error of its mean; None for what is no mean, or of a single item."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark's outcome; `reason` says why it was not run, or how it failed."""

    name: str
    status: Status
    reason: str = ""
    items: int = 0
    shots: int = 0
    source: str = ""
    metrics: dict[str, Measured] | None = None
    counts: dict[str, int] | None = None  # of outcomes, where there are more than right and wrong

    def as_json(self) -> dict[str, Any]:
        """Plain values, in a fixed order."""
        return {**asdict(self), "status": self.status.value}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> BenchmarkResult:
        """What `as_json` gave."""
        metrics = content["metrics"]
        read = None if metrics is None else {name: Measured(**value) for name, value in metrics.items()}
        return cls(**{**content, "status": Status(content["status"]), "metrics": read})


def measured_ratio(scores: ItemScores) -> Measured:
    """The metric with its standard error: of a mean, or by linearisation of a ratio of sums (Cochran 1977, 6.3)."""
    count = len(scores.items)
    if count < 2:
        return Measured(scores.score, None)
    residuals = scores.values - scores.score * scores.weights
    spread = math.sqrt(count / (count - 1) * float(np.square(residuals).sum()))
    return Measured(scores.score, spread / float(scores.weights.sum()))


def table_rows(results: Iterable[BenchmarkResult]) -> list[dict[str, Any]]:
    """The table for people: each benchmark beside GPT-3 and the target, those not run with their reason."""
    return [_row(BENCHMARKS[result.name], result) for result in results]  # type: ignore[index]


def metric_values(results: Iterable[BenchmarkResult]) -> dict[str, float]:
    """`eval/<task>/<metric>` of everything measured."""
    return {
        f"eval/{result.name}/{_flat(metric)}": measured.value
        for result in results
        for metric, measured in (result.metrics or {}).items()
    }


def shown(value: float | None, standard_error: float | None = None, missing: str | None = None) -> str | None:
    """A figure for people: shares in percent, others as they are, with their standard error; `missing` for None."""
    if value is None:
        return missing
    text, error = (f"{value:.1%}", 100.0) if value <= 1 else (f"{value:,.2f}", 1.0)
    return text if standard_error is None else f"{text} ± {error * standard_error:.2g}"


def _row(benchmark: Benchmark, result: BenchmarkResult) -> dict[str, Any]:
    measured = (result.metrics or {}).get(benchmark.metric)
    value = None if measured is None else measured.value
    return {
        "benchmark": benchmark.title,
        "metric": _flat(benchmark.metric),
        "result": None if measured is None else shown(measured.value, measured.standard_error),
        "gpt3": shown(benchmark.gpt3),
        "target": shown(benchmark.target),
        "target_reached": _reached(benchmark, value),
        "items": result.items or None,
        "shots": result.shots if value is not None else None,
        "status": result.status.value,
        "reason": result.reason,
    }


def _reached(benchmark: Benchmark, value: float | None) -> str | None:
    if value is None or benchmark.target is None:
        return None
    reached = value >= benchmark.target if benchmark.higher_is_better else value <= benchmark.target
    return "yes" if reached else "no"


def _flat(metric: str) -> str:
    """MLflow takes no comma or at sign in a name."""
    return metric.replace(",", "/").replace("@", "_at_")
