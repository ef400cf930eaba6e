"""Each benchmark's figures, and the reason of each that has none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from infra.errors import ConfigurationError
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarksConfig, Status, metric_values, table_rows
from tasks.evaluation.benchmarks.data import resolve_benchmarks
from tasks.evaluation.benchmarks.harness import chosen_items
from tasks.evaluation.benchmarks.journal import Journal
from tasks.evaluation.benchmarks.results import BenchmarkResult, measured_ratio
from tasks.evaluation.benchmarks.running import BenchmarkRun, run_benchmark
from tasks.evaluation.code_execution import sandbox_problem
from tasks.evaluation.items import ItemScores
from tasks.evaluation.task_result import TaskResult
from tests.tasks.evaluation.trained_model import ROWS, Trained


def _run(trained: Trained, config: BenchmarksConfig, name: BenchmarkName, **kwargs: object) -> BenchmarkRun:
    return run_benchmark(trained.model, config, name, Journal(None), **kwargs)  # type: ignore[arg-type]


def test_every_benchmark_of_the_list_is_measured(trained: Trained, data_directory: Path) -> None:
    config = BenchmarksConfig(
        data_directory=str(data_directory), shots={BenchmarkName.GSM8K: 2}, run_generated_code=sandbox_problem() is None
    )
    runs = [_run(trained, config, name) for name in BenchmarkName if name is not BenchmarkName.HUMANEVAL]
    for run in runs:
        benchmark = BENCHMARKS[BenchmarkName(run.result.name)]
        assert run.result.status is Status.MEASURED and set(run.result.metrics or {}) == set(benchmark.metrics)
        assert run.result.items == len(ROWS[f"{run.result.name}/{benchmark.split}"])
        for scores in run.items:
            assert len(set(scores.items)) == len(scores.items) == run.result.items
            assert scores.score == pytest.approx((run.result.metrics or {})[scores.metric].value)
        kept = TaskResult.from_json(json.loads(json.dumps(run.as_task_result().to_json())))
        assert kept.items == [] or kept.items[0].items == run.items[0].items
        assert BenchmarkResult.from_json(kept.figures) == run.result
    table = {row["benchmark"]: row for row in table_rows(run.result for run in runs)}
    assert table["MMLU"]["gpt3"] == "43.7%" and table["MMLU"]["target"] == "45.0%"
    assert table["WikiText-2"]["metric"] == "word_perplexity" and table["WikiText-2"]["target_reached"] == "no"
    metrics = metric_values(run.result for run in runs)
    assert metrics["eval/gsm8k/exact_match/strict-match"] == 0.0 and math.isfinite(metrics["eval/piqa/acc_norm"])


def test_generated_programs_are_run_only_when_asked(trained: Trained, data_directory: Path) -> None:
    plain = BenchmarksConfig(data_directory=str(data_directory))
    refused = _run(trained, plain, BenchmarkName.HUMANEVAL).result
    assert refused.status is Status.NOT_RUN and "run_generated_code" in refused.reason
    if (problem := sandbox_problem()) is not None:
        pytest.skip(f"programs cannot be run safely here: {problem}")
    asked = plain.model_copy(update={"run_generated_code": True})
    result = _run(trained, asked, BenchmarkName.HUMANEVAL).result
    assert result.status is Status.MEASURED and result.items == 3 and result.metrics is not None
    assert result.counts == {"failed": 3} and result.metrics["pass@1"].value == 0.0


def test_programs_that_pass_are_counted(
    trained: Trained, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (problem := sandbox_problem()) is not None:
        pytest.skip(f"programs cannot be run safely here: {problem}")
    config = BenchmarksConfig(data_directory=str(data_directory), run_generated_code=True)
    texts = ["    return 0\n", "    while True: pass\n", "    return 2\n"]
    monkeypatch.setattr(
        "tasks.evaluation.benchmarks.adapter.InterfaceLM.generate_until", lambda *_: texts
    )  # what a model would have to write
    result = _run(trained, config.model_copy(update={"code_seconds": 2.0}), BenchmarkName.HUMANEVAL).result
    assert result.counts == {"passed": 2, "timed_out": 1} and result.metrics is not None
    assert result.metrics["pass@1"].value == pytest.approx(2 / 3)
    assert result.metrics["pass@1"].standard_error == pytest.approx(1 / 3)


def test_what_is_missing_is_named(trained: Trained, tmp_path: Path, data_directory: Path) -> None:
    nowhere = BenchmarksConfig(data_directory=str(tmp_path / "none"))
    assert resolve_benchmarks(nowhere).data == {}
    for config, name, reason in (
        (nowhere, BenchmarkName.PIQA, "piqa/validation.jsonl' is not there, and evaluation.benchmarks.hub is not set"),
        (nowhere.model_copy(update={"hub": True}), BenchmarkName.PIQA, "HF_HUB_OFFLINE keeps this machine"),
        (nowhere.model_copy(update={"tasks": ()}), BenchmarkName.PIQA, "not among the benchmarks"),
    ):
        result = _run(trained, config, name).result
        assert result.status is Status.NOT_RUN and reason in result.reason and result.metrics is None
    (row,) = table_rows([_run(trained, nowhere, BenchmarkName.BOOLQ).result])
    assert row["result"] is None and row["target_reached"] is None and row["gpt3"] == "76.0%"
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(ROWS["gsm8k/test"][0]) + "\n")
    result = _run(trained, BenchmarksConfig(data_directory=str(tmp_path)), BenchmarkName.GSM8K).result
    assert result.status is Status.NOT_RUN and "train.jsonl' with them is not there" in result.reason


def test_damaged_data_is_told_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    path = tmp_path / "piqa" / "validation.jsonl"
    config = BenchmarksConfig(data_directory=str(tmp_path))
    good = json.dumps(ROWS["piqa/validation"][0])
    for content, message in (
        (f"{good}\n{{torn", "line 2: not JSON"),
        (f'{good}\n{{"goal": "x"}}\n', "line 2: no field 'sol1'"),
        ("[1]\n", "line 1: no field 'goal'"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=message):
            resolve_benchmarks(config)
    path.write_text(good + "\n")
    first = resolve_benchmarks(config).data[BenchmarkName.PIQA]
    path.write_text(good + "\n" + good + "\n")
    assert resolve_benchmarks(config).data[BenchmarkName.PIQA] != first
    pinned = config.model_copy(update={"data": {BenchmarkName.PIQA: first}})
    with pytest.raises(ConfigurationError, match=r"benchmarks\.data\.piqa is xxh3"):
        resolve_benchmarks(pinned)


def test_data_is_part_of_the_identity_and_its_place_is_not(data_directory: Path) -> None:
    here = resolve_benchmarks(BenchmarksConfig(data_directory=str(data_directory)))
    assert set(here.data) == set(BenchmarkName)
    fields = type(here).model_fields
    assert fields["data_directory"].json_schema_extra == {"identity": False}
    assert fields["data"].json_schema_extra is None


def test_a_failing_benchmark_is_named_and_a_cancelled_run_ends(
    trained: Trained, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BenchmarksConfig(data_directory=str(data_directory))

    class Cancelled(Exception):
        pass

    def cancel(done: int, of: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        _run(trained, config, BenchmarkName.PIQA, report=cancel)
    monkeypatch.setattr(type(trained.model), "score_continuations", lambda *_: 1 / 0)
    result = _run(trained, config, BenchmarkName.PIQA).result
    assert result.status is Status.FAILED and result.reason.startswith("ZeroDivisionError") and result.metrics is None


def test_a_limit_is_spread_evenly() -> None:
    assert chosen_items([4, 2, 6], None) == [[0, 1, 2, 3], [0, 1], [0, 1, 2, 3, 4, 5]]
    assert chosen_items([4, 2, 6], 99) == chosen_items([4, 2, 6], None)
    assert chosen_items([4, 2, 6], 4) == [[0, 3], [], [0, 3]]
    assert chosen_items([10], 3) == [[0, 3, 6]]


def test_standard_errors_are_those_of_means_and_ratios() -> None:
    random = np.random.default_rng(0)
    right = (random.random(500) < 0.3).astype(float)
    keys = tuple(str(n) for n in range(500))
    measured = measured_ratio(ItemScores("t", "acc", True, keys, right, np.ones(500)))
    assert measured.value == right.mean()
    assert measured.standard_error == pytest.approx(right.std(ddof=1) / math.sqrt(500))
    weights = random.integers(50, 5000, 500).astype(float)
    bits = weights * random.normal(2.0, 0.1, 500)
    ratio = measured_ratio(ItemScores("t", "bits", False, keys, bits, weights))
    draws = random.integers(0, 500, (4000, 500))
    bootstrap = bits[draws].sum(axis=1) / weights[draws].sum(axis=1)
    assert ratio.standard_error == pytest.approx(bootstrap.std(), rel=0.1)
    assert measured_ratio(ItemScores("t", "acc", True, ("a",), np.ones(1), np.ones(1))).standard_error is None
