"""Two machines, played by two process trees on this one, through the real torchrun."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tasks.training.incidents import IncidentLog
from tasks.training.join import join
from tasks.training.launch import Attempt
from tasks.training.policy import RestartPolicy
from tasks.training.supervision import Supervisor
from tests.tasks.training.conftest import stage_config
from tests.tasks.training.test_supervision import job_in

MODULE = "tests.tasks.training.scripted_trainer"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_rank_on_another_machine_dies_and_all_start_again(tmp_path: Path) -> None:
    out = {"event": "out_of_memory", "text": "there was too little."}
    scripts = {
        0: [[["steps", 2], ["hang", "exchange"]], [["steps", 3]]],
        1: [[["event", out], ["exit", 77]], [["steps", 3]]],
    }
    for rank, script in scripts.items():
        (tmp_path / f"script-{rank}.json").write_text(json.dumps(script))
    config = stage_config(
        ranks=2, nodes=2, micro_batch=2, rendezvous_address=f"127.0.0.1:{free_port()}",
        restart=RestartPolicy(backoff_seconds=0),
    )  # fmt: skip
    said: list[str] = []
    other = threading.Thread(target=join, args=(tmp_path / "job.json", 1, said.append, MODULE), daemon=True)
    other.start()
    incidents = IncidentLog(tmp_path / "incidents.jsonl")
    steps: list[int] = []
    Supervisor(
        job_in(tmp_path, config),
        tmp_path / "job.json",
        incidents,
        on_event=lambda event: steps.append(event["step"]) if event["event"] == "step" else None,
        on_line=said.append,
        on_incident=lambda incident: None,
        module=MODULE,
    ).run()
    other.join(30)
    assert not other.is_alive()
    assert said[-1] == "the stage is finished"
    assert [(incident["kind"], incident["detail"]) for incident in incidents.read()] == [
        ("out of memory", "there was too little.")
    ], "the first machine hears why the other's rank ended"
    assert steps[-3:] == [1, 2, 3]
    assert (tmp_path / "micro-batch-1-0").read_text() == "1"


def test_joining_as_a_machine_the_job_does_not_have_is_refused(tmp_path: Path) -> None:
    Attempt(1, 2, 2, "127.0.0.1:1", 1).write(tmp_path / "job.json")
    with pytest.raises(ConfigurationError, match="--node 1 to 1"):
        join(tmp_path / "job.json", 2, lambda line: None)


def test_joining_a_finished_stage_ends_at_once(tmp_path: Path) -> None:
    Attempt(0, 2, 2, "127.0.0.1:1", 1).write(tmp_path / "job.json")
    said: list[str] = []
    join(tmp_path / "job.json", 1, said.append)
    assert said == ["the stage is finished"]
