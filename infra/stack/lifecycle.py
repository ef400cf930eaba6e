"""Start, stop and look at the stack: what `sam2 up`, `sam2 stop` and `sam2 status` do."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from infra.processes import (
    ProcessIdentity,
    child_environment,
    processes_with_environment,
    start_child,
    stop_processes,
)
from infra.stack.deployments import apply_deployments, are_on_server, load_deployments
from infra.stack.errors import StackError, StackNotRunning, StackStartFailed
from infra.stack.ports import choose_port
from infra.stack.publication import publish, withdraw
from infra.stack.services import PREFECT
from infra.stack.settings import (
    DEFAULT_MLFLOW_PORT,
    DEFAULT_PREFECT_PORT,
    MLFLOW_PORT_VARIABLE,
    PREFECT_PORT_VARIABLE,
    STACK_ID_VARIABLE,
    StackSettings,
)
from infra.stack.state import Phase, ServiceState, StackState, read_state, state_path

POLL_SECONDS = 0.1
STOP_TIMEOUT_SECONDS = 60.0
LARGEST_KEPT_LOG_BYTES = 20_000_000

Say = Callable[[str], None]


class StackStatus(BaseModel):
    """What a look at the stack found."""

    model_config = ConfigDict(frozen=True)

    home: Path
    running: bool
    state: StackState | None
    stray_pids: list[int]

    @property
    def services(self) -> list[ServiceState]:
        return list(self.state.services.values()) if self.state else []


def start_stack(settings: StackSettings, say: Say = print) -> StackState:
    """Bring the stack up, or find it up, with the deployments of `prefect.yaml` applied. Safe to call at any time.

    Raises:
        PortTaken: a port that was asked for is held by another process.
        StackStartFailed: a server did not become healthy.
        DeploymentFailed: `prefect.yaml` or a flow in it is wrong (the servers stay up).
        StackError: a stack of this home runs on other ports than the ones asked for.
    """
    with _start_lock(settings):
        state = read_state(settings)
        if state is not None and state.is_running():
            _refuse_other_ports(settings, state)
        else:
            _launch_supervisor(settings, say)
        plan = load_deployments(settings)
        state = _wait_until(settings, lambda found: found.services[PREFECT].healthy)
        for note in publish(settings, state.prefect_api_url):
            say(note)
        if not are_on_server(plan.known_names, state.prefect_api_url):
            plan = load_deployments(settings, even_unchanged=True)
        names = apply_deployments(plan, state.prefect_api_url)
        state = _wait_until(settings, lambda found: found.phase is Phase.READY)
        say(f"Running: Prefect {state.prefect_url}, MLflow {state.mlflow_url}, deployments {', '.join(names)}.")
        return state


def stop_stack(settings: StackSettings, say: Say = print) -> bool:
    """Stop the stack of this home and everything it ever started; whether anything was running.

    Runs in progress are stopped and marked Crashed, so that a retry resumes them.
    """
    with _start_lock(settings):
        state = read_state(settings)
        supervisor = state.supervisor.process() if state is not None else None
        if supervisor is not None:
            say("Stopping the worker and the servers ...")
            _end_supervisor(supervisor)
        strays = processes_with_environment(STACK_ID_VARIABLE, settings.stack_id)
        if strays:
            say(f"Stopping {len(strays)} processes left behind: {', '.join(str(stray.pid) for stray in strays)}.")
            stop_processes(strays)
        if state is not None:
            withdraw(settings, state.prefect_api_url)
            state_path(settings).unlink(missing_ok=True)
        found = supervisor is not None or bool(strays)
        say("Stopped." if found else "Nothing was running.")
        return found


def stack_status(settings: StackSettings) -> StackStatus:
    """Who is alive, as the process table says, not as the state file remembers."""
    state = read_state(settings)
    running = state is not None and state.is_running()
    family = processes_with_environment(STACK_ID_VARIABLE, settings.stack_id)
    strays = [] if running else [process.pid for process in family]
    return StackStatus(home=settings.home, running=running, state=state, stray_pids=strays)


def running_state(settings: StackSettings) -> StackState:
    """The state of a stack that is up.

    Raises:
        StackNotRunning: it is not.
    """
    state = read_state(settings)
    if state is None or not state.is_running():
        raise StackNotRunning(settings.home)
    return state


@contextmanager
def _start_lock(settings: StackSettings) -> Iterator[None]:
    """Two `sam2 up` at once: the second waits and then finds the stack of the first."""
    settings.stack_directory.mkdir(parents=True, exist_ok=True)
    with (settings.stack_directory / "start.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_other_ports(settings: StackSettings, state: StackState) -> None:
    asked = {
        PREFECT_PORT_VARIABLE: (settings.prefect_port, state.prefect_port),
        MLFLOW_PORT_VARIABLE: (settings.mlflow_port, state.mlflow_port),
    }
    for option, (wanted, current) in asked.items():
        if wanted is not None and wanted != current:
            raise StackError(
                f"{option}={wanted} was asked for, but the stack of {settings.home} runs on port {current}.",
                "run `sam2 stop` first, or leave the port out.",
            )


def _launch_supervisor(settings: StackSettings, say: Say) -> None:
    stop_processes(processes_with_environment(STACK_ID_VARIABLE, settings.stack_id))
    prefect_port = choose_port(settings.host, settings.prefect_port, DEFAULT_PREFECT_PORT, PREFECT_PORT_VARIABLE)
    mlflow_port = choose_port(
        settings.host, settings.mlflow_port, DEFAULT_MLFLOW_PORT, MLFLOW_PORT_VARIABLE, frozenset({prefect_port})
    )
    _tell_port(say, "Prefect", DEFAULT_PREFECT_PORT, prefect_port, settings.prefect_port)
    _tell_port(say, "MLflow", DEFAULT_MLFLOW_PORT, mlflow_port, settings.mlflow_port)
    say(f"Starting the Prefect server on port {prefect_port} and the MLflow server on port {mlflow_port} ...")
    _rotate_logs(settings)
    state_path(settings).unlink(missing_ok=True)
    ports = ["--prefect-port", str(prefect_port), "--mlflow-port", str(mlflow_port)]
    child = start_child(
        [sys.executable, "-m", "infra.stack.supervisor", "--settings", settings.model_dump_json(), *ports],
        log_path=_supervisor_log(settings),
        environment=child_environment({STACK_ID_VARIABLE: settings.stack_id}),
        cwd=settings.stack_directory,
        dies_with_parent=False,
    )
    _wait_for_first_state(settings, ProcessIdentity.of(child.pid))


def _tell_port(say: Say, server: str, default: int, chosen: int, asked: int | None) -> None:
    if asked is None and chosen != default:
        say(f"Port {default} is taken by another program: {server} gets {chosen}.")


def _supervisor_log(settings: StackSettings) -> Path:
    return settings.log_directory / "supervisor.log"


def _rotate_logs(settings: StackSettings) -> None:
    for path in settings.log_directory.glob("*.log"):
        if path.stat().st_size > LARGEST_KEPT_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))


def _wait_for_first_state(settings: StackSettings, supervisor: ProcessIdentity | None) -> None:
    deadline = time.monotonic() + settings.start_timeout_seconds
    while read_state(settings) is None:
        if supervisor is None or not supervisor.is_alive() or time.monotonic() > deadline:
            raise StackStartFailed("The supervisor ended before it started anything.", _supervisor_log(settings))
        time.sleep(POLL_SECONDS)


def _wait_until(settings: StackSettings, is_reached: Callable[[StackState], bool]) -> StackState:
    """Raises StackStartFailed when the supervisor gives up, ends, or takes too long."""
    deadline = time.monotonic() + settings.start_timeout_seconds
    while True:
        state = read_state(settings)
        if state is not None and state.is_running() and is_reached(state):
            return state
        if state is None or not state.is_running():
            reason = state.failure if state is not None and state.failure else "The supervisor ended."
            raise StackStartFailed(f"The stack stopped while starting. {reason}", _supervisor_log(settings))
        if time.monotonic() > deadline:
            waiting = [service.name for service in state.services.values() if not service.healthy]
            raise StackStartFailed(
                f"Not healthy after {settings.start_timeout_seconds:.0f} seconds: {', '.join(waiting)}.",
                settings.log_directory,
            )
        time.sleep(POLL_SECONDS)


def _end_supervisor(supervisor: psutil.Process) -> None:
    """SIGTERM lets it stop its children in order; if it hangs, it dies and the strays are found by their mark."""
    supervisor.terminate()
    _, alive = psutil.wait_procs([supervisor], timeout=STOP_TIMEOUT_SECONDS)
    for process in alive:
        process.kill()
