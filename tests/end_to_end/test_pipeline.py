"""The whole pipeline with the real servers: one run, its traces everywhere, and a second that reuses it all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.stack.runs import FlowRun
from infra.stack.web import request_json

from .conftest import RunningStack, content_checksums, read_summary

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

STAGES = [
    "download", "quality", "deduplication", "tokenization", "training-1-short", "training-2-medium",
    "training-3-long", "evaluation", "quantization", "registration",
]  # fmt: skip
Finished = tuple[Path, str, FlowRun]


def task_states(stack: RunningStack, run: FlowRun) -> dict[str, str]:
    body = {"flow_runs": {"id": {"any_": [run.id]}}}
    tasks = request_json("POST", f"{stack.runs.api_url}/task_runs/filter", body)
    return {task["name"]: task["state_name"] for task in tasks}


def test_every_stage_leaves_an_artifact_and_the_terminal_tells_it(stack: RunningStack, finished_run: Finished) -> None:
    root, output, run = finished_run
    assert set(task_states(stack, run).values()) == {"Completed"}
    assert set(task_states(stack, run)) == set(STAGES)
    assert len(content_checksums(root)) == len(STAGES)
    assert list(root.glob("quantized/*/gguf/*q4_k_m*"))
    for stage in STAGES:
        assert f"{stage}: built" in output, stage
    summary = read_summary(stack, run)
    assert summary["status"] == "completed"
    report = Path(summary["report"])
    assert report.stat().st_size > 20_000
    assert str(report) in output
    assert summary["samples"], "a sample of the model's text is part of the summary"


def test_mlflow_has_a_parent_with_a_child_a_stage_live_metrics_and_costs(
    stack: RunningStack, finished_run: Finished
) -> None:
    run = finished_run[2]
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    experiment = client.get_experiment_by_name("sam2-miniature")
    parent, *more = client.search_runs([experiment.experiment_id], f"tags.`prefect.flow_run_id` = '{run.id}'")
    assert more == []
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.data.tags["sam2.stage"] for child in children} == set(STAGES)
    assert all(child.info.status == "FINISHED" for child in (parent, *children))
    assert all(child.data.metrics["cost/usd"] > 0 for child in children)
    spent = sum(child.data.metrics["cost/usd"] for child in children)
    assert parent.data.metrics["cost/usd"] == pytest.approx(spent, rel=0.2)
    training = next(child for child in children if child.data.tags["sam2.stage"] == "training-1-short")
    history = client.get_metric_history(training.info.run_id, "train/loss")
    assert len(history) >= 5
    assert history[0].timestamp < training.info.end_time - 500, "losses arrive while training runs"
    assert "eval/bits_per_byte" in parent.data.metrics
    assert any(file.path == "report.html" for file in client.list_artifacts(parent.info.run_id))


def test_the_model_is_registered_with_an_alias(stack: RunningStack, finished_run: Finished) -> None:
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    version = client.get_model_version_by_alias("sam2-miniature", "candidate")
    assert version.version


def test_the_registered_model_is_walked_back_to_its_sources(stack: RunningStack, finished_run: Finished) -> None:
    root = finished_run[0]
    walked = stack.command("sam2", "lineage", "sam2-miniature@candidate", "--store", str(root), "--json")
    assert walked.returncode == 0, walked.stdout + walked.stderr
    found = json.loads(walked.stdout)
    kinds = [artifact["artifact"].partition("/")[0] for artifact in found["artifacts"]]
    expected = {"raw_documents", "filtered_documents", "unique_documents", "tokens", "checkpoint", "registration"}
    assert expected <= set(kinds) and kinds.count("checkpoint") == 3
    assert {artifact["state"] for artifact in found["artifacts"]} == {"intact"}
    sources = [source for artifact in found["artifacts"] for source in artifact["sources"]]
    assert any("stdlib-docs" in source.values() for source in sources), sources
    listed = stack.command("sam2", "versions", "sam2-miniature")
    assert listed.returncode == 0 and "candidate" in listed.stdout, listed.stdout + listed.stderr


def test_prefect_shows_a_table_a_stage(stack: RunningStack, finished_run: Finished) -> None:
    run = finished_run[2]
    body = {"artifacts": {"flow_run_id": {"any_": [run.id]}}, "limit": 200}
    artifacts = request_json("POST", f"{stack.runs.api_url}/artifacts/filter", body)
    by_type: dict[str, set[str]] = {}
    for artifact in artifacts:
        by_type.setdefault(artifact["type"], set()).add(artifact["key"])
    for stage in STAGES:
        assert f"{stage}-progress" in by_type["progress"]
        assert f"{stage}-figures" in by_type["table"]
    assert "summary" in by_type["markdown"]


def test_the_ledger_has_every_stage(stack: RunningStack, finished_run: Finished) -> None:
    result = stack.command("sam2", "spend", "--by", "stage")
    assert result.returncode == 0, result.stderr
    for stage in STAGES:
        assert stage in result.stdout


def test_a_second_run_reuses_everything_and_says_so(stack: RunningStack, finished_run: Finished) -> None:
    root = finished_run[0]
    before = content_checksums(root)
    result = stack.run_pipeline(root)
    assert result.returncode == 0, result.stdout[-4000:]
    for stage in STAGES:
        assert f"{stage}: reused" in result.stdout, stage
    assert set(task_states(stack, stack.latest()).values()) == {"Reused"}
    assert content_checksums(root) == before


def test_the_bare_deployment_name_works_and_a_dry_run_builds_nothing(
    stack: RunningStack, finished_run: Finished
) -> None:
    result = stack.command(
        "prefect", "deployment", "run", "sam2-full-pipeline",
        "-p", "profile=miniature", "-p", "dry_run=true", "--watch",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert task_states(stack, stack.latest()) == {}


def test_a_damaged_artifact_is_named_repaired_and_the_rest_reused(stack: RunningStack, finished_run: Finished) -> None:
    root = finished_run[0]
    before = content_checksums(root)
    victim = next(iter(sorted(root.glob("unique_documents/*/documents/*.parquet"))))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(bytes(data))
    result = stack.run_pipeline(root)
    assert result.returncode == 0, result.stdout[-4000:]
    assert victim.name in result.stdout
    assert "deduplication: built" in result.stdout
    assert "tokenization: reused" in result.stdout
    assert content_checksums(root) == before


def test_the_bare_deployment_name_plans_a_budget(stack: RunningStack) -> None:
    arguments = ("-p", "profile=smoke", "-p", "budget_usd=5", "--watch")
    result = stack.command("prefect", "deployment", "run", "sam2-budget-plan", *arguments)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    run = stack.latest()
    assert run.state_name == "Completed"
    assert "recommended" in run.message
    body = {"artifacts": {"flow_run_id": {"any_": [run.id]}}}
    kinds = [artifact["type"] for artifact in request_json("POST", f"{stack.runs.api_url}/artifacts/filter", body)]
    assert {"table", "markdown"} <= set(kinds)
    written = {path.name for path in (stack.settings.runs_directory / run.id).iterdir()}
    assert {"plan.json", "plan.md"} <= written
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    experiment = client.get_experiment_by_name("sam2-budget-plan")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert any(name.startswith("plan/") for name in tracked.data.metrics)
    assert {"plan.md", "plots"} <= {file.path for file in client.list_artifacts(tracked.info.run_id)}
