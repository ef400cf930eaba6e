"""MLflow runs: found again after a crash, children under their parent, files and costs in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.artifacts.manifest import FileEntry, Manifest
from infra.storage import checksum_file
from infra.tracking import PipelineTracker
from infra.tracking.runs import flatten


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(autouse=True)
def artifacts_beside_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def manifest_with_plot(directory: Path) -> Manifest:
    plot = directory / "plots" / "loss.png"
    plot.parent.mkdir(parents=True)
    plot.write_bytes(b"png")
    return Manifest(
        kind="checkpoint", fingerprint="f" * 32, stage="training", stage_version=1, config={},
        inputs={"tokens": "tokens/abc"},
        files=(FileEntry(path="plots/loss.png", size_bytes=3, checksum=checksum_file(plot)),),
        metrics={"train/loss": 1.5}, tables={"stages": [{"stage": "a"}]}, created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_flatten_uses_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x", "e": {}}) == {
        "a.b": "1", "a.c": "[1, 2]", "d": "x", "e": "{}"
    }  # fmt: skip


def test_parent_child_and_resume(tracking_uri: str, tmp_path: Path) -> None:
    tracker = PipelineTracker(tracking_uri, "experiment", "flow-1", "run one", {"sam2.profile": "smoke"})
    tracker.log_parameters({"seed": 1, "nested": {"x": 2}})
    stage = tracker.stage("training", {"tokens": 10})
    for step in range(1200):
        stage.live({"step": step, "train/loss": 2.0 - step / 1000})
    manifest = manifest_with_plot(tmp_path / "artifact")
    stage.complete(manifest, "file://artifact", tmp_path / "artifact", {"cost/usd": 0.25}, reused=False)
    tracker.log_metrics({"cost/usd": 0.25})

    again = PipelineTracker(tracking_uri, "experiment", "flow-1", "run one", {})
    assert again.run_id == tracker.run_id, "a retried pipeline run continues its parent"
    again.log_parameters({"seed": 2})
    child_again = again.stage("training", {})
    assert child_again.run_id == stage.run_id
    again.finish("FINISHED")

    client = MlflowClient(tracking_uri=tracking_uri)
    child = client.get_run(stage.run_id)
    assert child.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert child.data.metrics["cost/usd"] == 0.25
    assert child.data.metrics["train/loss"] == 1.5
    assert len(client.get_metric_history(stage.run_id, "train/loss")) == 1201, "1200 live values and the final one"
    assert json.loads(child.inputs.dataset_inputs[0].dataset.source)["uri"] == "tokens/abc"
    assert {file.path for file in client.list_artifacts(stage.run_id)} >= {"plots", "manifest.json", "stages.json"}
    assert client.get_run(tracker.run_id).data.params == {"seed": "1", "nested.x": "2"}


def test_profiles_are_attached_up_to_a_size_and_named_beyond_it(tracking_uri: str, tmp_path: Path) -> None:
    tracker = PipelineTracker(tracking_uri, "experiment", "flow-3", "run three", {})
    stage = tracker.stage("training", {})
    manifest = manifest_with_plot(tmp_path)
    profile = tmp_path / "profiles" / "update-10.trace.json.gz"
    profile.parent.mkdir()
    profile.write_bytes(b"trace")
    entry = FileEntry(path="profiles/update-10.trace.json.gz", size_bytes=5, checksum=checksum_file(profile))
    large = entry.model_copy(update={"path": "profiles/update-99.trace.json.gz", "size_bytes": 20_000_001})
    other = entry.model_copy(update={"path": "model/model.safetensors"})
    manifest = manifest.model_copy(update={"files": (*manifest.files, entry, large, other)})
    stage.complete(manifest, "file://artifact", tmp_path, {}, reused=False)
    client = MlflowClient(tracking_uri=tracking_uri)
    assert [file.path for file in client.list_artifacts(stage.run_id, "profiles")] == [entry.path]
    assert client.get_run(stage.run_id).data.tags["sam2.only_in_artifact"] == large.path
    assert "model" not in {file.path for file in client.list_artifacts(stage.run_id)}


def test_a_metric_without_a_step_belongs_to_the_last_one(tracking_uri: str) -> None:
    stage = PipelineTracker(tracking_uri, "experiment", "flow-4", "run four", {}).stage("training", {})
    stage.live({"step": 7, "train/loss": 2.0})
    stage.live({"cost/usd": 0.5})
    stage.fail("stopped")
    (cost,) = MlflowClient(tracking_uri=tracking_uri).get_metric_history(stage.run_id, "cost/usd")
    assert (cost.step, cost.value) == (7, 0.5)


def test_failed_stage_keeps_its_reason(tracking_uri: str) -> None:
    tracker = PipelineTracker(tracking_uri, "experiment", "flow-2", "run two", {})
    stage = tracker.stage("download", {})
    stage.fail("the disk is full")
    run = MlflowClient(tracking_uri=tracking_uri).get_run(stage.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["sam2.failure"] == "the disk is full"


def test_a_running_stage_shows_its_cost_and_the_run_s(tracking_uri: str) -> None:
    tracker = PipelineTracker(tracking_uri, "experiment", "flow-live", "run live", {})
    stage = tracker.stage("training", {})
    client = MlflowClient(tracking_uri)
    for usd in (1.0, 2.0):
        stage.live({"step": int(usd), "cost/usd": usd})
        stage.live_of_run({"cost/usd": 10 + usd})
        stage._buffer._flush()
        stage._parent_buffer._flush()
        assert client.get_run(stage.run_id).data.metrics["cost/usd"] == usd
        assert client.get_run(tracker.run_id).data.metrics["cost/usd"] == 10 + usd
        assert client.get_run(stage.run_id).info.status == "RUNNING"
    stage.hold("too dear")
    tracker.log_metrics({"cost/usd": 13.0})
    assert client.get_run(tracker.run_id).data.metrics["cost/usd"] == 13.0
