"""Instruction tuning with the real servers, on the model of the miniature run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.stack.runs import FlowRun
from infra.stack.web import request_json

from .conftest import RunningStack, content_checksums, read_summary

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

STAGES = ["conversations", "finetuning", "chat-evaluation", "adapter-registration"]


def test_the_bare_deployment_name_tunes_measures_and_registers(
    stack: RunningStack, finished_run: tuple[Path, str, FlowRun], tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    shutil.copytree(finished_run[0], root)
    before = content_checksums(root)
    chats = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"What does f{n}() return?", "response": f"It returns the number {n}."} for n in range(60)]
    chats.write_text("\n".join([*map(json.dumps, rows), "{"]))
    overrides = {
        "artifact_root": str(root),
        "base": "sam2-miniature",
        "conversations": {"sources": [{"name": "mine", "uri": f"chat+file://{chats}"}], "held_out_fraction": 0.2},
        "finetuning": {"name": "numbers", "context_tokens": 128, "batch_tokens": 1024, "epochs": 4},
        "evaluation": {"context_tokens": 128, "window_overlap_tokens": 32, "base_tokens": 2000, "replies": 1},
    }
    result = stack.command(
        "prefect", "deployment", "run", "sam2-finetune", "-p", f"overrides={json.dumps(overrides)}", "--watch"
    )
    run = stack.latest()
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    body = {"flow_runs": {"id": {"any_": [run.id]}}}
    tasks = request_json("POST", f"{stack.runs.api_url}/task_runs/filter", body)
    assert {task["name"]: task["state_name"] for task in tasks} == dict.fromkeys(STAGES, "Completed")
    after = content_checksums(root)
    assert {reference: after[reference] for reference in before} == before, "the base's artifacts are untouched"
    kinds = sorted(reference.partition("/")[0] for reference in after.keys() - before.keys())
    assert kinds == ["adapter", "checkpoint", "conversations", "evaluation"]
    summary = read_summary(stack, run)
    assert summary["status"] == "completed"
    figures = next(stage for stage in summary["stages"] if stage["name"] == "chat-evaluation")["manifest"]["metrics"]
    assert figures["eval/answers/perplexity"] < figures["eval/answers/perplexity_before"]
    assert summary["registered"]["name"] == "sam2-miniature-lora-numbers"
    client = MlflowClient(tracking_uri=stack.state.mlflow_url)
    version = client.get_model_version_by_alias("sam2-miniature-lora-numbers", "candidate")
    assert version.tags["sam2.base_model"] == "sam2-miniature"
    experiment = client.get_experiment_by_name("sam2-finetune")
    stages = {entry.data.tags["sam2.stage"] for entry in client.search_runs([experiment.experiment_id])}
    assert stages == {"pipeline", *STAGES}
