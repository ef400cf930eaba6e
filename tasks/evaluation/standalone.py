"""An evaluation of any model behind the interface, without a pipeline: ours, a GGUF file, a Hugging Face model.

A directory holds it: `results.json` (the same for the same model, data and choices), `items.parquet` (item by item,
for comparison with another model's), `timings.json`, `plots/`. What is finished there is not measured again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import Field

from infra.artifacts import StageConfig
from infra.artifacts.shards import SCRATCH_DIRECTORY, ShardMarkers
from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from infra.storage.local import LocalStorage, atomic_file
from model.interface import ModelInterface, open_model
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarkResult, BenchmarksConfig, Status, table_rows
from tasks.evaluation.benchmarks.data import DataUnavailable, resolve_benchmarks
from tasks.evaluation.benchmarks.journal import Journal
from tasks.evaluation.benchmarks.results import metric_values
from tasks.evaluation.benchmarks.running import run_benchmark
from tasks.evaluation.config import NeedleConfig, SpeedConfig
from tasks.evaluation.items import ITEMS_FILE, write_items
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.needle import Cell, answer, make_questions, needle_items, pool
from tasks.evaluation.plots import plot_positions, plot_recall
from tasks.evaluation.scoring import InterfaceScorer
from tasks.evaluation.speed import measure_speed
from tasks.evaluation.task_result import Figures, TaskResult
from tasks.evaluation.wikitext import measure_wikitext, wikitext_pages

RESULTS_FILE, TIMINGS_FILE = "results.json", "timings.json"
_IDENTITY_FILE = "identity.json"
_log = logging.getLogger(__name__)

#: `report(message)` before and during each measurement.
Say = Callable[[str], None]


class Measurement(StrEnum):
    """What can be measured besides the benchmarks."""

    SPEED = "speed"
    NEEDLE = "needle"
    POSITIONS = "positions"


class StandaloneConfig(StageConfig):
    """What is measured of a model."""

    benchmarks: BenchmarksConfig = Field(BenchmarksConfig(), description="the field's benchmarks")
    measurements: tuple[Measurement, ...] = Field(
        default=tuple(Measurement), description="speed, needle recall, perplexity by position"
    )
    context_tokens: int | None = Field(
        default=None, ge=16, description="context of these; by default the model's own, at most 4,096"
    )
    position_tokens: int = Field(default=100_000, ge=1, description="tokens of WikiText-2 scored by position, about")
    needle: NeedleConfig = Field(NeedleConfig(), description="needle recall")
    speed: SpeedConfig = Field(SpeedConfig(), description="speed")
    seed: int = Field(default=0, description="of the choice of needles")


@dataclass(frozen=True)
class Evaluated:
    """What was found of one model."""

    title: str
    directory: Path
    info: dict[str, Any]
    benchmarks: list[BenchmarkResult]
    metrics: dict[str, float]
    not_run: dict[str, str]  # measurement -> reason


def evaluate_model(
    path: Path | str,
    output: Path,
    config: StandaloneConfig,
    *,
    tokenizer: Path | None = None,
    runtime: str | None = None,
    restart: bool = False,
    say: Say = lambda message: None,
) -> Evaluated:
    """Measure what is not finished in `output`, then write the results.

    Raises ConfigurationError when `output` holds another evaluation and `restart` is not set, or for damaged data;
    the model package's errors for a model that cannot be opened.
    """
    config = config.model_copy(update={"benchmarks": resolve_benchmarks(config.benchmarks)})
    title = str(path)
    output.mkdir(parents=True, exist_ok=True)
    markers = ShardMarkers(output, LocalStorage(output.parent), output.name)
    _claim(output, markers, {"model": _digest(path), "runtime": runtime, "config": config.identity()}, restart)
    work = _Work(path, tokenizer, runtime, output, config, say)
    results, seconds = {}, {}
    for name, task in work.tasks().items():
        say(f"{title}: {name}")
        results[name], seconds[name] = _once(markers, name, task)
    return _conclude(title, output, work.info(), results, seconds)


def _once(markers: ShardMarkers, name: str, task: Callable[[], TaskResult]) -> tuple[TaskResult, float]:
    finished = markers.statistics(name)
    if finished is None:
        started = time.monotonic()
        result = task()
        finished = {"result": result.to_json(), "seconds": time.monotonic() - started}
        if result.figures.get("status") != Status.FAILED:  # what failed is tried again by the next call
            markers.finish(name, [], finished)
    return TaskResult.from_json(finished["result"]), finished["seconds"]


class _Work:
    """The measurements of one model; it is opened when the first one asks."""

    def __init__(
        self, path: Path | str, tokenizer: Path | None, runtime: str | None, output: Path, config: StandaloneConfig,
        say: Say,
    ) -> None:  # fmt: skip
        self._path, self._tokenizer, self._runtime = path, tokenizer, runtime
        self._output, self._config, self._say = output, config, say

    @cached_property
    def _model(self) -> ModelInterface:
        return open_model(self._path, self._tokenizer, self._runtime)

    @cached_property
    def _context(self) -> int:
        longest = self._model.info().maximum_context
        return min(longest, self._config.context_tokens or 4096)

    def tasks(self) -> Mapping[str, Callable[[], TaskResult]]:
        """By name; speed first, so that the peak of memory is the model's own."""
        named = {
            Measurement.SPEED: self._speed,
            Measurement.NEEDLE: self._needle,
            Measurement.POSITIONS: self._positions,
        }
        chosen = {one.value: named[one] for one in Measurement if one in self._config.measurements}
        benchmarks = {f"benchmarks/{name}": lambda name=name: self._benchmark(name) for name in BenchmarkName}
        return {"model": self._model_info, **chosen, **benchmarks}

    def info(self) -> dict[str, Any]:
        """Kept by the first task, so that finished evaluations need not open the model."""
        content = json.loads((self._output / SCRATCH_DIRECTORY / "info.json").read_text())
        return dict(content)

    def _model_info(self) -> TaskResult:
        info = self._model.info().model_dump(mode="json")
        kinds = info.pop("layers")
        info["layers"] = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        _write_json(self._output / SCRATCH_DIRECTORY / "info.json", info)
        return TaskResult(figures=info)

    def _speed(self) -> TaskResult:
        memory = PeakMemory()
        speed = measure_speed(self._model, self._config.speed, self._context)
        timings = {**asdict(speed), "peak_rss_bytes": memory.peak_bytes(), "peak_added_bytes": memory.added_bytes()}
        return TaskResult(
            timings=timings,
            metrics={
                "eval/prefill_tokens_per_second": speed.prefill_tokens_per_second,
                "eval/decode_tokens_per_second": speed.decode_tokens_per_second,
                "eval/peak_rss_mb": timings["peak_rss_bytes"] / 1e6,
            },
        )

    def _needle(self) -> TaskResult:
        try:
            texts = wikitext_pages(self._config.benchmarks)
        except DataUnavailable as unavailable:
            return TaskResult(figures={"not_run": f"there is no text to hide needles in: {unavailable}"})
        model, config = self._model, self._config
        text = np.array([token for page in texts for token in model.encode(page)])
        scorer = InterfaceScorer(model)
        lengths = config.needle.lengths or tuple(sorted({self._context // part for part in (8, 4, 2, 1)}))
        answers = []
        for length in (length for length in lengths if length <= self._context):
            self._say(f"{self._path}: needle recall at {length} tokens")
            asked = list(make_questions(config.needle, [length], text, model.separator, model.encode, config.seed))
            answers += [answer(scorer, config.needle, asked)] if asked else []
        if not answers:
            return TaskResult(figures={"not_run": f"no needle fits into {self._context} tokens"})
        cells = [cell for one in answers for cell in one.cells()]
        pooled, chance = pool(cells), 1 / config.needle.candidates
        rows = [cell.as_row() for cell in cells]
        return TaskResult(
            figures={"chance": chance, "cells": [asdict(cell) for cell in cells], "recall": rows},
            metrics={"eval/needle/recall": pooled.correct / pooled.samples, "eval/needle/chance": chance},
            items=[needle_items(answers)],
        )

    def _positions(self) -> TaskResult:
        config = self._config
        return measure_wikitext(self._model, config.benchmarks, self._context, config.position_tokens)

    def _benchmark(self, name: BenchmarkName) -> TaskResult:
        title = BENCHMARKS[name].title
        journal = Journal(self._output / SCRATCH_DIRECTORY / f"{name}.jsonl")

        def report(done: int, of: int) -> None:
            self._say(f"{self._path}: {title}, {done:,} of {of:,} requests")

        run = run_benchmark(self._model, self._config.benchmarks, name, journal, report)
        return run.as_task_result()


def _conclude(
    title: str, output: Path, info: dict[str, Any], results: Mapping[str, TaskResult], seconds: dict[str, float]
) -> Evaluated:
    benchmarks = [
        BenchmarkResult.from_json(result.figures) for name, result in results.items() if name.startswith("benchmarks/")
    ]
    metrics = {name: value for result in results.values() for name, value in result.metrics.items()}
    figures: dict[str, Figures] = {name: result.figures for name, result in results.items() if result.figures}
    timings = {name: result.timings for name, result in results.items() if result.timings}
    _write_json(output / RESULTS_FILE, {"model": info, **figures, "table": table_rows(benchmarks)})
    _write_json(output / TIMINGS_FILE, {**timings, "seconds": seconds})
    write_items(output / ITEMS_FILE, [scores for result in results.values() for scores in result.items])
    _draw(output / "plots", figures)
    not_run = {name: str(one["not_run"]) for name, one in figures.items() if "not_run" in one}
    return Evaluated(title, output, info, benchmarks, metrics | metric_values(benchmarks), not_run)


def _draw(directory: Path, figures: Mapping[str, Figures]) -> None:
    needle, positions = figures.get("needle", {}), figures.get("positions", {})
    if needle.get("cells"):
        plot_recall(directory / "needle_recall.png", [Cell(**cell) for cell in needle["cells"]], needle["chance"], None)
    if positions.get("by_position"):
        plot_positions(directory / "perplexity_by_position.png", positions["by_position"])


def _claim(output: Path, markers: ShardMarkers, identity: dict[str, Any], restart: bool) -> None:
    """The directory is this evaluation's: new, or its own from before."""
    path = output / SCRATCH_DIRECTORY / _IDENTITY_FILE
    wanted = json.dumps(identity, sort_keys=True, default=str)
    present = path.read_text() if path.exists() else None
    if present == wanted:
        return
    if present is not None and not restart:
        raise ConfigurationError(
            f"'{output}' holds an evaluation of another model, other data or other choices.",
            "give another --output, or --restart to replace it.",
        )
    markers.clear()
    for journal in path.parent.glob("*.jsonl"):
        journal.unlink()
    with atomic_file(path) as stream:
        stream.write(wanted.encode())


def _digest(path: Path | str) -> str:
    """Of a model's files: those of its directory, or the file."""
    place = Path(path)
    if not place.exists():
        return str(path)  # an address
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    checksums = [f"{file.name} {checksum_file(file)}" for file in files if file.is_file()]
    return xxhash.xxh3_128_hexdigest("\n".join(checksums).encode())


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())
