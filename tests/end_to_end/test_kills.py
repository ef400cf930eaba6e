"""kill -9 in the middle of stages, with real processes; what follows continues and ends in the same artifacts."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from infra.processes import processes_with_environment
from infra.stack.runs import FlowRun
from infra.stack.settings import STACK_ID_VARIABLE
from infra.stack.web import request_json

from .conftest import RunningStack, content_checksums

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

DATA_KINDS = ("raw_documents", "filtered_documents", "unique_documents", "tokens")
TRAINED_KIND = "checkpoint"
Finished = tuple[Path, str, FlowRun]


def wait_for(is_true: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def is_being_built(root: Path, kind: str) -> bool:
    return any(not (directory / "manifest.json").exists() for directory in root.glob(f"{kind}/*"))


def engine_of(stack: RunningStack, run: FlowRun) -> psutil.Process:
    recorded = request_json("GET", f"{stack.runs.api_url}/flow_runs/{run.id}")["infrastructure_pid"]
    return psutil.Process(int(str(recorded).rpartition(":")[2]))


def kill_engine(stack: RunningStack, run: FlowRun) -> None:
    engine = engine_of(stack, run)
    for process in [*engine.children(recursive=True), engine]:
        process.kill()


def kill_worker(stack: RunningStack, run: FlowRun) -> None:
    """The worker and all it started: what a power cut does."""
    family = processes_with_environment(STACK_ID_VARIABLE, stack.settings.stack_id)
    worker = next(p for p in family if "worker" in p.cmdline() and "prefect" in p.cmdline())
    for process in [*worker.children(recursive=True), worker]:
        process.kill()


def kill_trainer(stack: RunningStack, run: FlowRun) -> None:
    engine = engine_of(stack, run)
    trainer = next(p for p in engine.children(recursive=True) if "tasks.training.trainer" in p.cmdline())
    trainer.kill()


def start(stack: RunningStack, root: Path) -> FlowRun:
    parameters = {"profile": "miniature", "overrides": {"artifact_root": str(root)}}
    return stack.runs.submit(parameters)


def victim_of(root: Path, kind: str) -> Path:
    """The artifact to build anew: the only one of its kind, or the first of the curriculum."""
    found = sorted(root.glob(f"{kind}/*"))
    if kind != TRAINED_KIND:
        (only,) = found
        return only
    return next(path for path in found if '"previous"' not in (path / "manifest.json").read_text())


def checkpoint_written(root: Path) -> bool:
    return any(root.glob(f"{TRAINED_KIND}/*/.scratch/**/checkpoint.json"))


def test_a_run_killed_in_three_stages_ends_in_the_same_artifacts(
    stack: RunningStack, finished_run: Finished, tmp_path: Path
) -> None:
    """Its engine, then its worker with all it started, each continued by a retry; its trainer is started anew by it."""
    root = tmp_path / "artifacts"
    # Every other stage's artifact is there already, so that only the killed stages have to be built.
    shutil.copytree(finished_run[0], root)
    victims = {kind: victim_of(root, kind) for kind in ("filtered_documents", "unique_documents", TRAINED_KIND)}
    for victim in victims.values():
        shutil.rmtree(victim)
    run = start(stack, root)
    kill_in_the_middle(stack, run, root, "filtered_documents", kill_engine)
    assert stack.command("sam2", "retry", run.name, "--no-watch").returncode == 0
    kill_in_the_middle(stack, run, root, "unique_documents", kill_worker)

    with ThreadPoolExecutor() as beside:
        retried = beside.submit(stack.command, "sam2", "retry", run.name)
        wait_for(lambda: checkpoint_written(root) or retried.done())
        kill_trainer(stack, run)
        result = retried.result()
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr
    assert stack.runs.read(run.id).state_name == "Completed"
    assert_same_artifacts(finished_run[0], root)
    manifest = json.loads((victims[TRAINED_KIND] / "manifest.json").read_text())
    assert [incident["kind"] for incident in manifest["statistics"]["incidents"]] == ["dead rank"]


def kill_in_the_middle(
    stack: RunningStack, run: FlowRun, root: Path, kind: str, kill: Callable[[RunningStack, FlowRun], None]
) -> None:
    wait_for(lambda: is_being_built(root, kind))
    kill(stack, run)
    wait_for(lambda: stack.runs.read(run.id).state_name in ("Crashed", "Failed"))
    assert is_being_built(root, kind), "the kill came in the middle of the stage"


def assert_same_artifacts(expected_root: Path, root: Path) -> None:
    expected, found = content_checksums(expected_root), content_checksums(root)
    compared = [name for name in expected if name.partition("/")[0] in DATA_KINDS]
    assert len(compared) == len(DATA_KINDS)
    for name in compared:
        assert found[name] == expected[name], name
    assert model_bytes(root) == model_bytes(expected_root), "weights are the same to the last bit"


def model_bytes(root: Path) -> dict[str, bytes]:
    """Trained weights by fingerprint."""
    paths = root.glob(f"{TRAINED_KIND}/*/model/model.safetensors")
    return {path.parent.parent.name: path.read_bytes() for path in paths}


def test_no_process_outlives_its_run(stack: RunningStack, finished_run: Finished) -> None:
    family = processes_with_environment(STACK_ID_VARIABLE, stack.settings.stack_id)
    left = [p.cmdline() for p in family if "tasks.training.trainer" in p.cmdline() and p.pid != os.getpid()]
    assert left == []
