"""The real servers and worker, started once: a run, its failures, killed processes, and nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.processes import processes_with_environment
from infra.stack import PortTaken, StackError, StackSettings, StackState, stack_status, start_stack, stop_stack
from infra.stack.runs import FlowRun, PrefectRuns
from infra.stack.settings import STACK_ID_VARIABLE
from infra.stack.state import read_state
from infra.stack.web import is_healthy, request_json

from .conftest import make_project

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

SCRIPTS = Path(sys.executable).parent
PATIENCE_SECONDS = 90.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackSettings]:
    directory = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_PROFILES_PATH", str(directory / "profiles.toml"))
        environment.setenv("SAM2_HOME", str(directory / "home"))
        environment.setenv("SAM2_PROJECT", str(make_project(directory / "project")))
        for name in ("PREFECT_API_URL", "SAM2_PREFECT_PORT", "SAM2_MLFLOW_PORT"):
            environment.delenv(name, raising=False)
        settings = StackSettings.from_environment()
        yield settings
        stop_stack(settings)


@pytest.fixture
def state(settings: StackSettings) -> StackState:
    """The running stack; started by the first test that asks, and again after one that killed it."""
    return start_stack(settings)


@pytest.fixture
def runs(state: StackState) -> PrefectRuns:
    return PrefectRuns(state.prefect_api_url)


def command(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [str(SCRIPTS / name), *arguments]
    environment = {**os.environ, "PWD": str(cwd)}  # as a shell sets it; prefect.yaml reads it
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def wait_for(is_true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def wait_for_state(runs: PrefectRuns, run: FlowRun, *names: str) -> None:
    wait_for(lambda: runs.read(run.id).state_name in names)


def family(settings: StackSettings) -> list[psutil.Process]:
    return processes_with_environment(STACK_ID_VARIABLE, settings.stack_id)


def engine_pid(runs: PrefectRuns, run: FlowRun) -> int:
    wait_for_state(runs, run, "Running")
    recorded = request_json("GET", f"{runs.api_url}/flow_runs/{run.id}")["infrastructure_pid"]
    return int(str(recorded).rpartition(":")[2])


def test_servers_answer_on_loopback_only(settings: StackSettings, state: StackState) -> None:
    assert is_healthy(f"{state.prefect_api_url}/health")
    assert is_healthy(f"{state.mlflow_url}/health")
    ports = {state.prefect_port, state.mlflow_port}
    addresses = {
        connection.laddr.ip
        for process in family(settings)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports
    }
    assert addresses == {"127.0.0.1"}


def test_a_second_start_finds_the_first(settings: StackSettings, state: StackState) -> None:
    before = {process.pid for process in family(settings)}
    began = time.monotonic()
    assert start_stack(settings).supervisor == state.supervisor
    assert time.monotonic() - began < 5
    assert {process.pid for process in family(settings)} == before


def test_a_second_start_on_other_ports_is_refused(settings: StackSettings, state: StackState) -> None:
    with pytest.raises(StackError, match="sam2 stop"):
        start_stack(settings.model_copy(update={"prefect_port": state.prefect_port + 50}))


def test_a_stack_that_cannot_have_its_port_starts_nothing(settings: StackSettings, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        other = settings.model_copy(update={"home": tmp_path / "other", "prefect_port": holder.getsockname()[1]})
        with pytest.raises(PortTaken):
            start_stack(other)
    assert family(other) == []


@pytest.mark.usefixtures("state")
def test_run_prints_progress_and_links_and_exits_with_success(settings: StackSettings) -> None:
    result = command("sam2", "run", "--set", "description=three steps", cwd=settings.project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "step 2" in result.stdout
    assert "training: 100%" in result.stdout
    assert "/runs/flow-run/" in result.stdout
    assert "deployment step" not in result.stdout


def test_a_failed_run_exits_with_1_and_tells_the_cause_and_the_next_one_knows(
    settings: StackSettings, runs: PrefectRuns
) -> None:
    result = command("sam2", "run", "--set", "description=fail", cwd=settings.project)
    assert result.returncode == 1
    assert "asked to fail" in result.stdout
    assert f"sam2 retry {runs.latest(1)[0].name}" in result.stdout
    result = command("sam2", "run", "--no-watch", cwd=settings.project)
    assert "failed; this one reuses what it finished" in result.stdout


@pytest.mark.usefixtures("state")
def test_wrong_parameters_are_refused_in_one_line(settings: StackSettings) -> None:
    result = command("sam2", "run", "--profile", "smoke", "--set", "steps", cwd=settings.project)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "field.path=value" in result.stderr


@pytest.mark.parametrize("place", ["project", "elsewhere"])
def test_prefects_own_command_takes_the_bare_name(
    settings: StackSettings, runs: PrefectRuns, tmp_path: Path, place: str
) -> None:
    cwd = settings.project if place == "project" else tmp_path
    result = command("prefect", "deployment", "run", "sam2-full-pipeline", "-p", "profile=tiny", cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    newest = runs.latest(1)[0]
    assert newest.name in result.stdout
    assert newest.profile == "tiny"


@pytest.mark.usefixtures("state")
def test_prefect_deploy_works_on_the_same_file(settings: StackSettings) -> None:
    result = command("prefect", "--no-prompt", "deploy", "--all", cwd=settings.project)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.usefixtures("state")
def test_status_and_doctor_find_everything_well(settings: StackSettings) -> None:
    assert command("sam2", "status", cwd=settings.project).returncode == 0
    result = command("sam2", "doctor", cwd=settings.project)
    assert "running and healthy" in result.stdout


def test_a_run_whose_worker_and_engine_were_killed_is_crashed_and_can_be_retried(
    settings: StackSettings, runs: PrefectRuns
) -> None:
    run = runs.submit({"overrides": {"steps": 600, "seconds": 1}})
    engine = engine_pid(runs, run)
    before = read_state(settings)
    assert before is not None
    worker = before.services["worker"].pid
    assert worker is not None
    os.kill(worker, 9)  # first, so that it cannot report its child's end
    os.kill(engine, 9)
    wait_for_state(runs, run, "Crashed")
    after = read_state(settings)
    assert after is not None
    assert after.services["worker"].restarts == 1
    runs.retry(runs.read(run.id))
    assert engine_pid(runs, run) != engine


def test_stop_ends_a_run_in_progress_marks_it_and_leaves_nothing(settings: StackSettings, runs: PrefectRuns) -> None:
    run = runs.submit({"overrides": {"steps": 600, "seconds": 1}})
    for running in runs.latest(20):
        if running.state_name == "Running" and running.id != run.id:
            request_json(
                "POST",
                f"{runs.api_url}/flow_runs/{running.id}/set_state",
                {"state": {"type": "CANCELLING", "name": "Cancelling"}},
            )
    engine_pid(runs, run)
    assert stop_stack(settings)
    assert family(settings) == []
    assert not stack_status(settings).running
    assert not (settings.project / "prefect.toml").exists()
    assert run.name in (settings.log_directory / "supervisor.log").read_text()
    assert PrefectRuns(start_stack(settings).prefect_api_url).read(run.id).state_name == "Crashed"


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(
    settings: StackSettings, state: StackState, runs: PrefectRuns
) -> None:
    run = runs.submit({"overrides": {"steps": 600, "seconds": 1}})
    engine_pid(runs, run)
    os.kill(state.supervisor_pid, 9)
    wait_for(lambda: family(settings) == [], seconds=30)
    assert not stack_status(settings).running
    result = command("prefect", "deployment", "run", "sam2-full-pipeline", cwd=settings.project)
    assert result.returncode != 0
    assert "make up" in result.stderr
    again = PrefectRuns(start_stack(settings).prefect_api_url)
    assert again.read(run.id).state_name == "Crashed"
    assert stop_stack(settings)
    assert not stop_stack(settings)
