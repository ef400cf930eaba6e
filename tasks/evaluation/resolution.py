"""Pin the data an evaluation reads besides its inputs, so that the fingerprint changes with it."""

from __future__ import annotations

from tasks.evaluation.benchmarks import resolve_benchmarks
from tasks.evaluation.config import EvaluationConfig


def resolve_evaluation(config: EvaluationConfig) -> EvaluationConfig:
    """The same config with the checksum of every benchmark's data filled in; see `resolve_benchmarks`."""
    return config.model_copy(update={"benchmarks": resolve_benchmarks(config.benchmarks)})
