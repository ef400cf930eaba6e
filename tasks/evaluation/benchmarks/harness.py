"""The harness's own tasks over our rows: prompts, choices, filters and metrics are lm-eval's, unchanged."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from tasks.evaluation.benchmarks.catalog import Benchmark, BenchmarkName
from tasks.evaluation.benchmarks.data import BenchmarkData, Row

_UNKNOWN_SUBJECT = "all"


def _no_bar(iterable: Any, **_: Any) -> Any:
    return iterable


# The harness draws a bar for making its prompts, between the stage's own lines, and has no switch for it.
lm_eval.api.task.tqdm = _no_bar


@dataclass(frozen=True)
class Sample:
    """What came of one item; values by metric, `metric,filter` where a task has several filters."""

    doc: Row
    values: dict[str, Any]


def build_tasks(benchmark: Benchmark, data: BenchmarkData, shots: int, seed: int) -> dict[str, ConfigurableTask]:
    """The harness's task by name: one, or for MMLU one a subject, whose name its questions are introduced with."""
    if benchmark.name is not BenchmarkName.MMLU:
        return {benchmark.name.value: _task(benchmark, {}, data.rows, data.examples, shots, seed)}
    rows, examples = _by_subject(data.rows), _by_subject(data.examples)
    tasks = {}
    for subject, own in rows.items():
        name = f"{benchmark.name}_{subject}"
        about = "" if subject == _UNKNOWN_SUBJECT else f" about {subject.replace('_', ' ')}"
        description = f"The following are multiple choice questions (with answers){about}.\n\n"
        changes = {"task": name, "description": description}
        tasks[name] = _task(benchmark, changes, own, examples.get(subject, []), shots, seed)
    return tasks


def run_tasks(model: LM, tasks: Mapping[str, ConfigurableTask], limit: int | None) -> list[Sample]:
    """Every item's result, in the order of the data; with a limit, of items evenly spread over all tasks'."""
    chosen = chosen_items([len(task.eval_docs) for task in tasks.values()], limit)
    wanted = {name: places for name, places in zip(tasks, chosen, strict=True) if places}
    found = evaluate(
        model,
        {"tasks": {name: tasks[name] for name in wanted}, "groups": {}},
        samples=None if limit is None else wanted,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found is not None, "there is one process"
    return [sample for name in wanted for sample in _joined(found["samples"][name])]


def chosen_items(counts: Sequence[int], limit: int | None) -> list[list[int]]:
    """Places of the items to take from each of several lists: all, or `limit` at equal distances over all of them."""
    starts = [0, *accumulate(counts)]
    total = starts[-1]
    if limit is None or limit >= total:
        return [list(range(count)) for count in counts]
    places = [number * total // limit for number in range(limit)]
    return [
        [place - start for place in places if start <= place < start + count]
        for start, count in zip(starts, counts, strict=False)
    ]


def rows_of(task: ConfigurableTask, limit: int | None) -> list[Row]:
    """The items that a limit leaves of one task."""
    rows = list(task.eval_docs)
    (places,) = chosen_items([len(rows)], limit)
    return [dict(rows[place]) for place in places]


def item_text(row: Row) -> str:
    """An item as one text, to know it again in another evaluation."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def _joined(logged: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """One sample an item: the harness logs one for each filter."""
    several = len({entry["filter"] for entry in logged}) > 1
    docs: dict[int, Row] = {}
    values: dict[int, dict[str, Any]] = defaultdict(dict)
    for entry in logged:
        docs[entry["doc_id"]] = entry["doc"]
        for metric in entry["metrics"]:
            values[entry["doc_id"]][f"{metric},{entry['filter']}" if several else metric] = entry[metric]
    return [Sample(docs[number], values[number]) for number in sorted(docs)]


def _task(
    benchmark: Benchmark,
    changes: Mapping[str, Any],
    rows: Sequence[Row],
    examples: Sequence[Row],
    shots: int,
    seed: int,
) -> ConfigurableTask:
    splits = {benchmark.split: datasets.Dataset.from_list(list(rows))}
    if examples and benchmark.example_split:
        splits[benchmark.example_split] = datasets.Dataset.from_list(list(examples))
    present = datasets.DatasetDict(splits)
    config = {
        **_harness_config(benchmark.yaml, functions=benchmark.name is not BenchmarkName.HUMANEVAL),
        **changes,
        "custom_dataset": lambda **_: present,
        "num_fewshot": shots,
    }
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(key) not in splits:
            config.pop(key, None)
    if benchmark.name is BenchmarkName.HUMANEVAL:
        # Its own metric downloads code and runs programs unprotected: ours are run in a sandbox instead.
        config |= {"metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}]}
        config |= {"filter_list": None, "unsafe_code": False}
    for key in ("tag", "dataset_path", "dataset_name"):
        config.pop(key, None)
    datasets.disable_caching()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of its own task's defaults
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(seed)
    return task


@cache
def _tasks_directory() -> Path:
    return Path(lm_eval.__file__).parent / "tasks"


def _harness_config(yaml: str, functions: bool) -> dict[str, Any]:
    return dict(load_yaml(_tasks_directory() / yaml, resolve_func=functions))


def _by_subject(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[str(row["subject"])].append(row)
    return dict(found)
