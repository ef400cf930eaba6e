"""The supervisor and the ranks it watches, played by a scripted trainer in processes of its own."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.training import supervision
from tasks.training.errors import TrainingDiverged, TrainingFailed
from tasks.training.incidents import Incident, IncidentLog
from tasks.training.job import FAILED_EXIT_CODE, INTERRUPTED_EXIT_CODE, OUT_OF_MEMORY_EXIT_CODE, TrainingJob
from tasks.training.policy import RestartPolicy
from tasks.training.supervision import Supervisor, kernel_memory_kills
from tests.tasks.training.conftest import stage_config

Script = list[list[list[Any]]]


class Play:
    """What a supervised script led to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.incidents = IncidentLog(directory / "incidents.jsonl")
        self.told: list[Incident] = []
        self.lines: list[str] = []
        self.steps: list[int] = []

    def run(self, script: Script, **policy: Any) -> None:
        (self.directory / "script-0.json").write_text(json.dumps(script))
        config = stage_config(restart=RestartPolicy(backoff_seconds=0, **policy), micro_batch=4)
        Supervisor(
            job_in(self.directory, config),
            self.directory / "job.json",
            self.incidents,
            on_event=lambda event: self.steps.append(event["step"]) if event["event"] == "step" else None,
            on_line=self.lines.append,
            on_incident=self.told.append,
            module="tests.tasks.training.scripted_trainer",
        ).run()

    def kinds(self) -> list[str]:
        return [incident["kind"] for incident in self.incidents.read()]


def job_in(directory: Path, config: Any) -> TrainingJob:
    return TrainingJob(
        config=config,
        train_shards=[],
        validation_shards=[],
        source_names=[],
        previous=None,
        output=directory,
        checkpoints=directory / "checkpoints",
    )


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.setattr(supervision, "_STACK_SECONDS", 0.3)
    return Play(tmp_path)


def test_an_undisturbed_run_has_no_incident(play: Play) -> None:
    play.run([[["steps", 3]]])
    assert play.steps == [1, 2, 3]
    assert not (play.directory / "incidents.jsonl").exists()


def test_a_killed_rank_a_stop_signal_and_full_storage_are_each_followed_by_a_new_start(play: Play) -> None:
    full = {"event": "error", "type": "StorageFull", "problem": "no space left on 'x'.", "fix": "free some."}
    play.run(
        [
            [["steps", 2], ["die", int(signal.SIGKILL)]],
            [["steps", 4], ["event", {"event": "interrupted", "step": 4}], ["exit", INTERRUPTED_EXIT_CODE]],
            [["steps", 5], ["event", full], ["exit", FAILED_EXIT_CODE]],
            [["steps", 6]],
        ]
    )
    assert play.kinds() == ["dead rank", "stop signal", "storage"]
    assert "killed by SIGKILL" in play.told[0].detail
    assert [incident.step for incident in play.told] == [2, 4, 5]
    assert play.steps[-1] == 6


@pytest.mark.parametrize("way", ["hang", "native hang"])
def test_a_rank_that_hangs_is_named_asked_for_its_stack_and_replaced(play: Play, way: str) -> None:
    play.run([[["steps", 2], [way, "data"]], [["steps", 3]]], hang_seconds=0.3)
    assert play.kinds() == ["stalled data loader"]
    assert "rank 0 in 'data (shard train-00003)' of update 3" in play.told[0].detail
    assert ("the stack" in play.lines) == (way == "hang")
    assert play.steps[-1] == 3


def test_a_hang_outside_the_data_is_a_hung_step(play: Play) -> None:
    play.run([[["steps", 1], ["hang", "forward and backward"]], [["steps", 2]]], hang_seconds=0.3)
    assert play.kinds() == ["hung step"]


def test_a_rank_that_hangs_before_it_says_anything_is_noticed_too(play: Play) -> None:
    play.run([[["silent", 0]], [["steps", 1]]], start_seconds=1.5)
    assert play.kinds() == ["hung step"]
    assert "rank 0 in 'starting'" in play.told[0].detail


def test_out_of_memory_halves_the_micro_batch_until_it_fits(play: Play) -> None:
    out = [["event", {"event": "out_of_memory", "text": "tried to allocate 2 GiB."}], ["exit", OUT_OF_MEMORY_EXIT_CODE]]
    play.run([[["steps", 1], *out], out, [["steps", 2]]])
    assert play.kinds() == ["out of memory", "out of memory"]
    sizes = [(play.directory / f"micro-batch-0-{left}").read_text() for left in (2, 1, 0)]
    assert sizes == ["4", "2", "1"]
    assert "micro_batch 4 -> 2" in play.told[0].action


def test_a_row_that_does_not_fit_ends_the_stage_with_the_ways_out(play: Play) -> None:
    out = [["event", {"event": "out_of_memory", "text": "too much."}], ["exit", OUT_OF_MEMORY_EXIT_CODE]]
    with pytest.raises(TrainingFailed, match="gradient_checkpointing"):
        play.run([out, out, out])


def test_a_kill_by_the_kernel_for_want_of_memory_counts_as_out_of_memory(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4, 4])
    monkeypatch.setattr(supervision, "kernel_memory_kills", lambda: next(counts))
    play.run([[["steps", 1], ["die", int(signal.SIGKILL)]], [["steps", 2]]])
    assert play.kinds() == ["out of memory"]


def test_starts_that_get_no_further_end_the_stage(play: Play) -> None:
    attempt = [["steps", 2], ["die", int(signal.SIGKILL)]]
    with pytest.raises(TrainingFailed, match=r"3 times in a row without getting past update 2.*killed by SIGKILL"):
        play.run([attempt] * 5, maximum=2)
    assert play.kinds() == ["dead rank"] * 3


def test_the_same_error_of_the_program_twice_in_a_row_ends_the_stage(play: Play) -> None:
    with pytest.raises(TrainingFailed, match=r"twice in the same way before update 3: rank 0 exited with code 9"):
        play.run([[["steps", 2], ["exit", 9]]] * 3)
    assert play.kinds() == ["failed rank"]


@pytest.mark.parametrize(
    ("kind", "expected"), [("TrainingDiverged", TrainingDiverged), ("ConfigurationError", TrainingFailed)]
)
def test_what_would_come_again_is_not_tried_again(play: Play, kind: str, expected: type[Exception]) -> None:
    event = {"event": "error", "type": kind, "problem": "it is so.", "fix": "change it."}
    with pytest.raises(expected, match="change it"):
        play.run([[["event", event], ["exit", FAILED_EXIT_CODE]]])
    assert play.incidents.read() == []


def test_the_trainers_own_incidents_are_recorded_with_the_others(play: Play) -> None:
    incident = {"event": "incident", "step": 7, "kind": "loss spike", "detail": "9.1", "action": "back to update 5"}
    play.run([[["event", incident], ["steps", 1]]])
    assert play.told[0].describe() == "loss spike at update 7: 9.1; back to update 5"
    assert play.kinds() == ["loss spike"]


def test_a_torn_line_of_the_incident_log_costs_only_itself(tmp_path: Path) -> None:
    log = IncidentLog(tmp_path / "log")
    log.add(Incident.now(1, "dead rank", "a", "b"))
    (tmp_path / "log").open("a").write('{"step": 2, "ki')
    log.add(Incident.now(3, "hung step", "a", "b"))
    assert [incident["step"] for incident in log.read()] == [1, 3]


def test_the_kernels_count_is_read_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 7\nnr_free_pages 3\n")
    assert kernel_memory_kills(tmp_path / "vmstat") == 7
    assert kernel_memory_kills(tmp_path / "absent") == 0


def test_incidents_that_do_not_fit_on_the_disk_are_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = IncidentLog(tmp_path / "log")

    def full(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        log.add(Incident.now(1, "storage", "a", "b"))
    assert log.read() == []
    log.add(Incident.now(2, "dead rank", "a", "b"))
    assert [incident["step"] for incident in log.read()] == [1, 2]
