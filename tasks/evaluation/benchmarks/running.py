"""One benchmark, from its data to its figures; whatever goes wrong is that benchmark's result."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.errors import ConfigurationError
from model.interface import ModelInterface
from tasks.evaluation.benchmarks.catalog import BENCHMARKS, Benchmark, BenchmarkName
from tasks.evaluation.benchmarks.config import BenchmarksConfig
from tasks.evaluation.benchmarks.data import BenchmarkData, DataUnavailable, read_data, shots_of
from tasks.evaluation.benchmarks.journal import Journal, Report
from tasks.evaluation.benchmarks.results import BenchmarkResult, Measured, Status, measured_ratio, metric_values
from tasks.evaluation.items import ItemScores, item_key
from tasks.evaluation.task_result import TaskResult

if TYPE_CHECKING:
    from tasks.evaluation.benchmarks.adapter import InterfaceLM

_log = logging.getLogger(__name__)
_PROGRAMS_AT_ONCE = 32
NOT_ASKED_FOR = "not among the benchmarks asked for"


@dataclass(frozen=True)
class BenchmarkRun:
    """The result and what it is made of."""

    result: BenchmarkResult
    items: tuple[ItemScores, ...] = ()

    def as_task_result(self) -> TaskResult:
        """What the evaluation stage keeps of it."""
        return TaskResult(figures=self.result.as_json(), metrics=metric_values([self.result]), items=list(self.items))


def run_benchmark(
    model: ModelInterface,
    config: BenchmarksConfig,
    name: BenchmarkName,
    journal: Journal,
    report: Report = lambda done, of: None,
) -> BenchmarkRun:
    """Measure one benchmark; answers on record in `journal` are not asked again.

    What `report` raises ends the work. Raises ConfigurationError for data that is damaged.
    """
    benchmark = BENCHMARKS[name]
    reason = _why_not(config, benchmark)
    if reason:
        return _not_run(name, reason)
    # The harness takes seconds to import, and only runs that use it should wait for it.
    from tasks.evaluation.benchmarks.adapter import InterfaceLM

    watched = _Watched(report)
    try:
        data = read_data(config, benchmark)
        if not data.rows:
            return _not_run(name, f"{data.source} has no items")
        return _measure(InterfaceLM(model, journal, open_documents=config.open_documents, report=watched.report),
                        config, benchmark, data, journal)  # fmt: skip
    except DataUnavailable as unavailable:
        return _not_run(name, str(unavailable))
    except ConfigurationError:
        raise
    except Exception as error:  # one benchmark that fails is named, and the others go on
        if error is watched.raised:
            raise
        _log.warning("benchmark %s failed", name, exc_info=True)
        return BenchmarkRun(
            BenchmarkResult(name.value, Status.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        )


class _Watched:
    """Tells what ends the work (a cancelled run, a lost lease) from what goes wrong in it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.raised: BaseException | None = None

    def report(self, done: int, of: int) -> None:
        try:
            self._report(done, of)
        except BaseException as error:
            self.raised = error
            raise


def _why_not(config: BenchmarksConfig, benchmark: Benchmark) -> str:
    if benchmark.name not in config.tasks:
        return NOT_ASKED_FOR
    if benchmark.name is not BenchmarkName.HUMANEVAL:
        return ""
    if not config.run_generated_code:
        return "it runs programs that the model writes: set evaluation.benchmarks.run_generated_code to allow it"
    from tasks.evaluation.code_execution import sandbox_problem

    problem = sandbox_problem()
    return f"programs cannot be run safely here: {problem}" if problem else ""


def _measure(
    model: InterfaceLM, config: BenchmarksConfig, benchmark: Benchmark, data: BenchmarkData, journal: Journal
) -> BenchmarkRun:
    from tasks.evaluation.benchmarks.harness import build_tasks, item_text, run_tasks

    shots = shots_of(config, benchmark)
    tasks = build_tasks(benchmark, data, shots, config.seed)
    if benchmark.name is BenchmarkName.HUMANEVAL:
        return _measure_programs(model, config, benchmark, data, journal, tasks[benchmark.name.value])
    samples = run_tasks(model, tasks, config.limit)
    keys = _distinct([item_key(item_text(sample.doc)) for sample in samples])
    scores, metrics = [], {}
    for metric in benchmark.metrics:
        values = [sample.values[metric] for sample in samples]
        if isinstance(values[0], tuple):  # log-likelihood and words or bytes
            measured, items = _measured_perplexity(benchmark, metric, keys, values)
        else:
            weights = np.ones(len(values))
            items = ItemScores(benchmark.name.value, metric, True, keys, np.array(values, dtype=np.float64), weights)
            measured = measured_ratio(items)
        metrics[metric] = measured
        scores += [items] if items else []
    result = BenchmarkResult(benchmark.name.value, Status.MEASURED, "", len(samples), shots, data.source, metrics)
    return BenchmarkRun(result, tuple(scores))


def _measured_perplexity(
    benchmark: Benchmark, metric: str, keys: tuple[str, ...], values: Sequence[tuple[float, int]]
) -> tuple[Measured, ItemScores | None]:
    """As the harness aggregates them; paired by bits of each document, from which the perplexities follow."""
    nats = math.fsum(value for value, _ in values)
    units = sum(count for _, count in values)
    if metric != "bits_per_byte":
        return Measured(math.exp(-nats / units), None), None
    bits = np.array([-value / math.log(2) for value, _ in values])
    items = ItemScores(benchmark.name.value, metric, False, keys, bits, np.array([count for _, count in values], float))
    return measured_ratio(items), items


def _measure_programs(
    model: InterfaceLM, config: BenchmarksConfig, benchmark: Benchmark, data: BenchmarkData, journal: Journal, task: Any
) -> BenchmarkRun:
    """HumanEval: the harness's prompts and stop texts; the programs run in a sandbox, one completion a problem."""
    from lm_eval.api.instance import Instance

    from tasks.evaluation.benchmarks.harness import rows_of

    problems = rows_of(task, config.limit)
    arguments = dict(task.config.generation_kwargs)
    requests = [
        Instance("generate_until", doc=row, arguments=(task.doc_to_text(row), arguments), idx=number)
        for number, row in enumerate(problems)
    ]
    verdicts = _verdicts(config, problems, model.generate_until(requests), journal)
    passed = np.array([verdict == "passed" for verdict in verdicts], dtype=np.float64)
    keys = _distinct([item_key(row["task_id"], row["prompt"], row["test"]) for row in problems])
    items = ItemScores(benchmark.name.value, benchmark.metric, True, keys, passed, np.ones(len(passed)))
    result = BenchmarkResult(
        benchmark.name.value, Status.MEASURED, "", len(problems), 0, data.source,
        {benchmark.metric: measured_ratio(items)}, dict(sorted(Counter(verdicts).items())),
    )  # fmt: skip
    return BenchmarkRun(result, (items,))


def _verdicts(
    config: BenchmarksConfig, problems: Sequence[Mapping[str, str]], completions: Sequence[str], journal: Journal
) -> list[str]:
    from tasks.evaluation.code_execution import Limits, check_completions

    limits = Limits(seconds=config.code_seconds)
    verdicts: list[str] = []
    for start in range(0, len(problems), _PROGRAMS_AT_ONCE):
        batch = [[dict(row), text] for row, text in zip(problems[start:], completions[start:], strict=True)]
        batch = batch[:_PROGRAMS_AT_ONCE]

        def run(batch: list[list[Any]] = batch) -> list[str]:
            rows, texts = [row for row, _ in batch], [text for _, text in batch]
            return [outcome.verdict.value for outcome in check_completions(rows, texts, limits, config.code_workers)]

        verdicts += journal.answers("program", batch, run)
    return verdicts


def _distinct(keys: Sequence[str]) -> tuple[str, ...]:
    """Items that a benchmark has twice are told apart by their order."""
    seen: Counter[str] = Counter()
    found = []
    for key in keys:
        seen[key] += 1
        found.append(key if seen[key] == 1 else item_key(key, str(seen[key])))
    return tuple(found)


def _not_run(name: BenchmarkName, reason: str) -> BenchmarkRun:
    return BenchmarkRun(BenchmarkResult(name.value, Status.NOT_RUN, reason))
