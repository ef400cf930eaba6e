"""The benchmarks as tasks of the evaluation stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from infra.artifacts import StageContext
from infra.artifacts.shards import SCRATCH_DIRECTORY
from model.interface import ModelInterface
from tasks.evaluation.benchmarks.catalog import BENCHMARKS, BenchmarkName
from tasks.evaluation.benchmarks.config import BenchmarksConfig
from tasks.evaluation.benchmarks.journal import Journal
from tasks.evaluation.benchmarks.results import BenchmarkResult, table_rows
from tasks.evaluation.benchmarks.running import run_benchmark
from tasks.evaluation.task_result import Figures, TaskResult

PREFIX = "benchmarks/"


def benchmark_tasks(
    context: StageContext[Any], config: BenchmarksConfig, model: Callable[[], ModelInterface]
) -> dict[str, Callable[[], TaskResult]]:
    """`benchmarks/<name>` -> its measurement, which continues at the batch where a killed one stopped."""
    return {f"{PREFIX}{name}": partial(_measure, context, config, model, name) for name in BenchmarkName}


def benchmark_table(figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """The table for people, from the figures of all tasks; empty where no benchmark was among them."""
    results = [BenchmarkResult.from_json(content) for name, content in figures.items() if name.startswith(PREFIX)]
    return table_rows(results)


def _measure(
    context: StageContext[Any], config: BenchmarksConfig, model: Callable[[], ModelInterface], name: BenchmarkName
) -> TaskResult:
    title = BENCHMARKS[name].title
    journal = Journal(context.directory / SCRATCH_DIRECTORY / "benchmarks" / f"{name}.jsonl")

    def report(done: int, of: int) -> None:
        context.report(done / of, f"evaluating: {title}, {done:,} of {of:,} requests", None)

    run = run_benchmark(model(), config, name, journal, report)
    if run.result.reason:
        context.log.info("%s: %s: %s", title, run.result.status, run.result.reason)
    return run.as_task_result()
