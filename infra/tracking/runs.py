"""The parent run and its stage runs, found again after a crash by their tags.

Every run carries the same tags (`sam2.flow_run_id`, `sam2.stage`, `sam2.profile`, ...) and the
same metric keys, so MLflow's Compare lines up runs and costs.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# MLflow retries a dead server for minutes by default; ours is on this machine and either lives or not.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType

from infra.artifacts.manifest import Manifest
from infra.tracking.buffer import MetricBuffer

_PARAM_LIMIT = 100  # parameters one log_batch may carry
_VALUE_LIMIT = 500  # characters; longer values are in config.json
#: Folder of an artifact whose files are copied to MLflow -> largest file that is.
_COPIED_BYTES = {"plots": 1 << 20, "profiles": 20_000_000}
_PARENT_TAG = "mlflow.parentRunId"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested config as dotted names, the way MLflow's parameter table shows it best."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


class PipelineTracker:
    """The parent run of one pipeline run. A retried pipeline run continues the same parent."""

    def __init__(
        self, tracking_uri: str, experiment: str, flow_run_id: str, run_name: str, tags: Mapping[str, str]
    ) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self.tracking_uri = tracking_uri
        self._flow_run_id = flow_run_id
        self.experiment_id = self._experiment(experiment)
        # `prefect.flow_run_id` is on the parent alone: it is how a run page is found from a flow run.
        own = {
            "sam2.flow_run_id": flow_run_id,
            "prefect.flow_run_id": flow_run_id,
            "sam2.stage": "pipeline",
            **tags,
        }
        self.run_id = self._find_or_create(own, run_name)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Log the resolved profile as parameters and, whole, as `config.json`."""
        _log_parameters(self._client, self.run_id, parameters)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final figures on the parent, where runs are compared."""
        _log_metrics(self._client, self.run_id, metrics)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the parent."""
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy one small file (the report) to the parent's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def finish(self, status: str) -> None:
        """Close the parent: FINISHED, FAILED or KILLED; SCHEDULED leaves it open for a run that waits."""
        if status == "SCHEDULED":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status)

    def stage(self, stage: str, config: Mapping[str, Any]) -> StageTracker:
        """Open (or find again) the child run of a stage."""
        tags = {
            "sam2.flow_run_id": self._flow_run_id,
            "sam2.stage": stage,
            _PARENT_TAG: self.run_id,
        }
        run_id = self._find_or_create(tags, stage)
        _log_parameters(self._client, run_id, config)
        return StageTracker(self._client, run_id, self.run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        # MLflow's own mark for the training view: runs with their metrics first, not traces and chats.
        return str(self._client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"}))

    def _find_or_create(self, tags: Mapping[str, str], run_name: str) -> str:
        wanted = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in ("sam2.flow_run_id", "sam2.stage"))
        found = self._client.search_runs([self.experiment_id], wanted, ViewType.ACTIVE_ONLY, max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        return str(self._client.create_run(self.experiment_id, tags=dict(tags), run_name=run_name).info.run_id)


class StageTracker:
    """The child run of one stage: live metrics while it works, figures and files at its end."""

    def __init__(self, client: MlflowClient, run_id: str, parent_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self._buffer = MetricBuffer(client, run_id)
        self._parent_buffer = MetricBuffer(client, parent_id)
        self._last_step = 0

    def live(self, metrics: Mapping[str, float]) -> None:
        """Queue metrics of a running stage; `step` in them is the step (the last one if left out), the rest values."""
        step = int(metrics.get("step", self._last_step))
        self._last_step = max(self._last_step, step)
        self._buffer.add({key: value for key, value in metrics.items() if key != "step"}, step)

    def live_of_run(self, metrics: Mapping[str, float]) -> None:
        """Queue figures of the whole run, shown on its parent while this stage works."""
        self._parent_buffer.add(metrics, 0)  # one step: MLflow then shows the latest

    def _send_all(self) -> None:
        self._buffer.close()
        self._parent_buffer.close()

    def complete(
        self, manifest: Manifest, uri: str, directory: Path, costs: Mapping[str, float], *, reused: bool
    ) -> None:
        """Log the finished artifact: figures, tables, plots, small files; the artifact itself by reference."""
        self._send_all()
        # MLflow shows the value of the highest step: the final figures come after the live ones.
        _log_metrics(self._client, self.run_id, {**costs, **manifest.metrics}, self._last_step + 1)
        tags = {
            "sam2.artifact_uri": uri,
            "sam2.artifact_fingerprint": manifest.fingerprint,
            "sam2.artifact_checksum": manifest.content_checksum,
            "sam2.reused": str(reused).lower(),
            "sam2.code_version": manifest.code_version,
        }
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._log_lineage(manifest)
        self._log_files(manifest, directory)
        self._client.set_terminated(self.run_id, "FINISHED")

    def fail(self, reason: str) -> None:
        """Close the child as failed, with the reason as a tag."""
        self._client.set_tag(self.run_id, "sam2.failure", reason[:4000])
        self._send_all()
        self._client.set_terminated(self.run_id, "FAILED")

    def hold(self, reason: str) -> None:
        """Leave the child open: the stage is held and will go on."""
        self._client.set_tag(self.run_id, "sam2.held", reason[:4000])
        self._send_all()
        self._client.update_run(self.run_id, status="SCHEDULED")

    def _log_lineage(self, manifest: Manifest) -> None:
        inputs = [
            DatasetInput(
                Dataset(
                    name=name,
                    digest=reference.rpartition("/")[2],
                    source_type="artifact",
                    source=json.dumps({"uri": reference}),
                ),
                [InputTag("mlflow.data.context", manifest.stage)],
            )
            for name, reference in manifest.inputs.items()
        ]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def _log_files(self, manifest: Manifest, directory: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            for name, rows in manifest.tables.items():
                (Path(temporary) / f"{name}.json").write_text(json.dumps(rows, indent=1))
            (Path(temporary) / "manifest.json").write_text(manifest.model_dump_json(indent=1))
            self._client.log_artifacts(self.run_id, temporary)
        too_large = []
        for entry in manifest.files:
            folder = entry.path.partition("/")[0]
            if entry.size_bytes <= _COPIED_BYTES.get(folder, -1):
                self._client.log_artifact(self.run_id, str(directory / entry.path), folder)
            elif folder in _COPIED_BYTES:
                too_large.append(entry.path)
        if too_large:
            self._client.set_tag(self.run_id, "sam2.only_in_artifact", ", ".join(too_large)[:4000])


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    now = int(time.time() * 1000)
    batch = [Metric(key, float(value), now, step) for key, value in metrics.items()]
    for start in range(0, len(batch), 1000):
        client.log_batch(run_id, metrics=batch[start : start + 1000])


def _log_parameters(client: MlflowClient, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log parameters once; a continued run keeps the ones it has (MLflow forbids changing them)."""
    present = client.get_run(run_id).data.params
    flat = {key: value[:_VALUE_LIMIT] for key, value in flatten(parameters).items() if key not in present}
    batch = [Param(key, value) for key, value in flat.items()]
    for start in range(0, len(batch), _PARAM_LIMIT):
        client.log_batch(run_id, params=batch[start : start + _PARAM_LIMIT])
    client.log_dict(run_id, dict(parameters), "config.json")
