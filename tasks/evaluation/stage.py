"""The evaluation stage: a checkpoint and held-out tokens in, one table of figures and the gates' verdicts out.

Files: `evaluation.json` (deterministic: the same for the same checkpoint and configuration), `items.parquet` (results
item by item), `timings.json` (speed, memory and seconds on this machine), `plots/*.png`. Each task is a shard: an
interrupted evaluation continues with the tasks it has not finished.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.artifacts import Stage, StageContext, StageResult
from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.artifacts.stage import ProgressReporter
from infra.storage.local import atomic_file
from tasks.evaluation.benchmarks import Status
from tasks.evaluation.benchmarks.stage_tasks import benchmark_table
from tasks.evaluation.config import EvaluationConfig
from tasks.evaluation.gates import all_passed, judge
from tasks.evaluation.items import ITEMS_FILE, write_items
from tasks.evaluation.measures import Measures
from tasks.evaluation.needle import Cell
from tasks.evaluation.plots import plot_bits_per_byte, plot_context_limits, plot_positions, plot_recall
from tasks.evaluation.task_result import Figures, TaskResult

RESULTS_FILE = "evaluation.json"
TIMINGS_FILE = "timings.json"


def evaluate(context: StageContext[EvaluationConfig]) -> StageResult:
    """Run the tasks that are not finished yet, then judge and draw.

    Inputs: `checkpoint` (with `model/`) and `tokens`. Raises PipelineError for inputs that do not
    belong together.
    """
    progress = _Progress(context.report)
    tasks: Mapping[str, Callable[[], TaskResult]] = Measures(replace(context, report=progress)).tasks()
    results, seconds = {}, {}
    for number, (name, task) in enumerate(tasks.items()):
        progress.enter(number, len(tasks))
        progress(0.0, f"evaluating: {name}", None)
        results[name], seconds[name] = _once(context, name, task)
    return _conclude(context, results, seconds)


class _Progress:
    """A task's own progress, told as the stage's."""

    def __init__(self, report: ProgressReporter) -> None:
        self._report = report
        self._number, self._of = 0, 1

    def enter(self, number: int, of: int) -> None:
        self._number, self._of = number, of

    def __call__(self, fraction: float, message: str, metrics: Mapping[str, float] | None) -> None:
        self._report((self._number + fraction) / self._of, message, metrics)


def _once(
    context: StageContext[EvaluationConfig], name: str, task: Callable[[], TaskResult]
) -> tuple[TaskResult, float]:
    """The task's result and seconds: from its marker when an earlier attempt finished it."""
    finished = context.shards.statistics(name)
    if finished is None:
        started = time.monotonic()
        finished = {"result": task().to_json(), "seconds": time.monotonic() - started}
        if finished["result"]["figures"].get("status") != Status.FAILED:  # a benchmark that failed is tried again
            context.shards.finish(name, [], finished)
        context.log.info("%s: %.1f s", name, finished["seconds"])
    return TaskResult.from_json(finished["result"]), finished["seconds"]


def _conclude(
    context: StageContext[EvaluationConfig], results: dict[str, TaskResult], seconds: dict[str, float]
) -> StageResult:
    """Metrics, verdicts, files and plots from the tasks' results."""
    shutil.rmtree(context.directory / SCRATCH_DIRECTORY, ignore_errors=True)
    metrics = {name: value for result in results.values() for name, value in result.metrics.items()}
    verdicts = judge(context.config.gates, metrics)
    gates, passed = [row.as_row() for row in verdicts], all_passed(verdicts)
    figures = {name: result.figures for name, result in results.items() if result.figures}
    cells = _all_cells(figures)
    recall = [cell.as_row() for cell in cells]
    timings = {name: result.timings for name, result in results.items() if result.timings}
    _write_json(context.directory / RESULTS_FILE, {**figures, "recall": recall, "gates": gates, "gates_passed": passed})
    _write_json(context.directory / TIMINGS_FILE, {**timings, "seconds": seconds})
    write_items(context.directory / ITEMS_FILE, [scores for result in results.values() for scores in result.items])
    _draw(context.directory / "plots", figures, cells)
    tables = {
        "gates": gates,
        "benchmarks": benchmark_table(figures),
        "bits per byte": _comparison(figures),
        "needle recall": recall,
    }
    statistics: Figures = {"gates_passed": passed}
    for result in results.values():
        tables |= result.tables
        statistics |= result.statistics
    return StageResult(metrics, {name: rows for name, rows in tables.items() if rows}, statistics)


def _all_cells(figures: Mapping[str, Figures]) -> list[Cell]:
    """Recall at every length it was measured at, once; the needle task's where two tasks have a length."""
    cells = {
        (cell["length"], cell["depth"]): Cell(**cell)
        for name in ("context_limits", "needle")
        for cell in figures[name]["cells"]
    }
    return [cells[place] for place in sorted(cells)]


def _comparison(figures: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Bits per byte of the model and its baselines, and the share saved against each."""
    baselines, ours = figures["baselines"], figures["perplexity"]["bits_per_byte"]
    values = {
        "model": ours,
        "byte unigram": baselines["unigram_bits_per_byte"],
        "byte 5-gram": baselines["5gram_bits_per_byte"],
        "token unigram": baselines["token_unigram_bits_per_byte"],
        "token 5-gram": baselines["token_5gram_bits_per_byte"],
    }
    return [
        {"predictor": name, "bits_per_byte": value, "model_needs_less": 1 - ours / value}
        for name, value in values.items()
    ]


def _draw(directory: Path, figures: Mapping[str, Figures], cells: list[Cell]) -> None:
    plot_bits_per_byte(
        directory / "bits_per_byte.png", {row["predictor"]: row["bits_per_byte"] for row in _comparison(figures)}
    )
    plot_positions(directory / "perplexity_by_position.png", figures["perplexity"]["by_position"])
    limits, chance = figures["context_limits"], figures["needle"]["chance"]
    if cells:
        plot_recall(directory / "needle_recall.png", cells, chance, limits["trained_tokens"])
    measured = [row for row in limits["rows"] if row.get("loss") is not None]
    if measured:
        plot_context_limits(directory / "context_limits.png", measured, limits["trained_tokens"], chance)


def _write_json(path: Path, content: Figures) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())


STAGE = Stage(name="evaluation", kind="evaluation", version=2, config_type=EvaluationConfig, run=evaluate)
