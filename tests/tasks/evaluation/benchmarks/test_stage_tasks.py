"""The benchmarks in the evaluation stage: measured or named, in the table, the metrics and the items."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage, plan_fingerprint
from infra.errors import PipelineError
from tasks.evaluation import STAGE, EvaluationConfig, resolve_evaluation
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarksConfig
from tasks.evaluation.benchmarks.results import shown
from tasks.evaluation.benchmarks.stage_tasks import benchmark_tasks
from tasks.evaluation.items import read_items

TASKS = (BenchmarkName.PIQA, BenchmarkName.WIKITEXT, BenchmarkName.BOOLQ)
Artifacts = tuple[ArtifactStore, dict[str, Artifact]]


def _config(data: Path) -> EvaluationConfig:
    return resolve_evaluation(
        EvaluationConfig(
            context_tokens=128,
            window_overlap_tokens=16,
            held_out_tokens=600,
            needle={"lengths": [110], "depths": [0.5], "samples_per_cell": 1, "candidates": 4},
            speed={"decode_tokens": 2, "repetitions": 1},
            samples={"prompts": ["the cat"], "new_tokens": 4},
            benchmarks=BenchmarksConfig(data_directory=str(data), limit=4, tasks=TASKS),
        )
    )


def _error(artifact: Artifact, name: str) -> float:
    content = json.loads(artifact.path("evaluation.json").read_bytes())
    return float(content[f"benchmarks/{name}"]["metrics"]["acc"]["standard_error"])


def test_they_are_part_of_the_evaluation(artifacts: Artifacts, data_directory: Path) -> None:
    store, inputs = artifacts
    artifact = build_stage(STAGE, _config(data_directory), inputs, store).artifact
    rows = {row["benchmark"]: row for row in artifact.manifest.tables["benchmarks"]}
    assert list(rows) == [benchmark.title for benchmark in BENCHMARKS.values()]
    assert {title for title, row in rows.items() if row["status"] == "measured"} == {"PIQA", "BoolQ", "WikiText-2"}
    assert rows["PIQA"]["items"] == 4 and rows["PIQA"]["gpt3"] == "81.1%" and rows["MMLU"]["result"] is None
    assert rows["PIQA"]["result"] == shown(artifact.manifest.metrics["eval/piqa/acc"], _error(artifact, "piqa"))
    assert artifact.manifest.tables["WikiText-2 by position"]
    content = json.loads(artifact.path("evaluation.json").read_bytes())
    assert content["benchmarks/boolq"]["items"] == 4 and content["wikitext"]["documents"] >= 1
    items = {scores.name: scores for scores in read_items(artifact.path("items.parquet"))}
    assert len(items["piqa/acc_norm"].items) == 4
    assert not list(artifact.directory.glob(".scratch/*")), "journals are not part of the artifact"


def test_other_data_is_another_evaluation(artifacts: Artifacts, data_directory: Path, tmp_path: Path) -> None:
    _, inputs = artifacts
    references = {name: artifact.reference for name, artifact in inputs.items()}
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "validation.jsonl").write_bytes((data_directory / "piqa" / "validation.jsonl").read_bytes())
    with_data = plan_fingerprint(STAGE, _config(tmp_path), references)
    assert with_data != plan_fingerprint(STAGE, _config(data_directory), references)
    (tmp_path / "moved").mkdir()
    (tmp_path / "piqa").rename(tmp_path / "moved" / "piqa")
    assert with_data == plan_fingerprint(STAGE, _config(tmp_path / "moved"), references)


def test_an_evaluation_killed_between_batches_goes_on_there(
    artifacts: Artifacts, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inputs = artifacts
    monkeypatch.setattr("tasks.evaluation.benchmarks.adapter.BATCH_TOKENS", 40)
    undisturbed = build_stage(STAGE, _config(data_directory), inputs, store).artifact
    plain, calls = benchmark_tasks, []

    def interrupted(context: object, config: object, model: object) -> object:
        tasks = plain(context, config, model)  # type: ignore[arg-type]
        report = context.report  # type: ignore[attr-defined]

        def counted(fraction: float, message: str, metrics: object) -> None:
            if "requests" in message:
                calls.append(message)
                if len(calls) == 3:
                    raise PipelineError("the run was cancelled.", "run again.")
            report(fraction, message, metrics)

        object.__setattr__(context, "report", counted)
        return tasks

    monkeypatch.setattr("tasks.evaluation.measures.benchmark_tasks", interrupted)
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "cache")
    with pytest.raises(PipelineError, match="cancelled"):
        build_stage(STAGE, _config(data_directory), inputs, other)
    again = build_stage(STAGE, _config(data_directory), inputs, other).artifact
    assert again.path("items.parquet").read_bytes() == undisturbed.path("items.parquet").read_bytes()
    assert again.path("evaluation.json").read_bytes() == undisturbed.path("evaluation.json").read_bytes()
