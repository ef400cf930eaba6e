"""The background process that keeps the stack alive: `python -m infra.stack.supervisor`, started by `sam2 up`.

It starts the servers, then the worker, restarts what dies, marks abandoned runs as crashed, and on SIGTERM takes
everything down in order. Its children get SIGTERM from the kernel if it dies itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from infra.errors import PipelineError
from infra.processes import ProcessIdentity, processes_with_environment, start_child, stop_processes, stop_tree
from infra.quiet import apply_quiet_environment
from infra.stack.reconciler import Reconciler, reconcile_once
from infra.stack.services import Service, mlflow_server, prefect_server, stack_environment, worker
from infra.stack.settings import STACK_ID_VARIABLE, StackSettings
from infra.stack.state import Phase, ServiceState, StackState, write_state
from infra.stack.web import is_healthy

TICK_SECONDS = 0.25
RECONCILE_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
STEADY_SECONDS = 60.0  # a process that lived this long starts again with the shortest backoff
SERVER_RESTARTS_ALLOWED = 5
ENGINE_GRACE_SECONDS = 20.0
SERVER_GRACE_SECONDS = 10.0

log = logging.getLogger("sam2.supervisor")


class ServiceFailed(Exception):
    """A server cannot be kept running; the stack stops with this as its reason."""


class SupervisedService:
    """One service: its process, whether it is healthy, and when it may be started again."""

    def __init__(self, service: Service, environment: dict[str, str], allowed_restarts: int | None) -> None:
        self.service = service
        self.healthy = False
        self.restarts = 0
        self._environment = {**environment, **service.environment}
        self._allowed_restarts = allowed_restarts
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: ProcessIdentity | None = None
        self._started_at = 0.0
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._start_at: float | None = None

    def start(self) -> None:
        """Start the process."""
        service = self.service
        self._child = start_child(
            service.command, log_path=service.log_path, environment=self._environment, cwd=service.cwd
        )
        self._identity = ProcessIdentity.of(self._child.pid)
        self._started_at = time.monotonic()
        self._start_at = None
        log.info("%s started as process %d", service.name, self._child.pid)

    def tick(self) -> None:
        """Notice health and death, and start again when the backoff has passed.

        Raises:
            ServiceFailed: it died before it was ever healthy, or too often.
        """
        if self._start_at is not None:
            if time.monotonic() >= self._start_at:
                self.start()
            return
        if self._child is None:
            return
        exit_code = self._child.poll()
        if exit_code is not None:
            self._plan_restart(exit_code)
        elif not self.healthy:
            url = self.service.health_url
            self.healthy = url is None or is_healthy(url)

    def _plan_restart(self, exit_code: int) -> None:
        name = self.service.name
        never_healthy = self.service.health_url is not None and not self.healthy and self.restarts == 0
        lived_seconds = time.monotonic() - self._started_at
        if lived_seconds > STEADY_SECONDS:
            self._backoff_seconds = FIRST_BACKOFF_SECONDS
            self.restarts = 0
        self.restarts += 1
        self.healthy = False
        too_often = self._allowed_restarts is not None and self.restarts > self._allowed_restarts
        if never_healthy or too_often:
            raise ServiceFailed(f"{name} exited with code {exit_code}:\n{last_lines(self.service.log_path)}")
        log.warning("%s exited with code %d; starting it again in %.0f s", name, exit_code, self._backoff_seconds)
        self._start_at = time.monotonic() + self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, LONGEST_BACKOFF_SECONDS)

    def stop(self, grace_seconds: float) -> None:
        """End the process and its descendants."""
        self._start_at = None
        if self._child is not None and self._child.poll() is None:
            stop_tree(self._child.pid, grace_seconds)
            log.info("%s stopped with code %s", self.service.name, self._child.wait())

    def state(self) -> ServiceState:
        return ServiceState(
            name=self.service.name,
            pid=self._identity.pid if self._identity else None,
            create_time=self._identity.create_time if self._identity else None,
            healthy=self.healthy and self._start_at is None,
            restarts=self.restarts,
            log_path=self.service.log_path,
        )


class Supervisor:
    """Runs from `run` until a signal or a failure."""

    def __init__(self, settings: StackSettings, prefect_port: int, mlflow_port: int) -> None:
        own = ProcessIdentity.of(os.getpid())
        assert own is not None
        self._settings = settings
        self._state = StackState(
            stack_id=settings.stack_id,
            supervisor_pid=own.pid,
            supervisor_create_time=own.create_time,
            host=settings.host,
            prefect_port=prefect_port,
            mlflow_port=mlflow_port,
        )
        self._published: StackState | None = None
        environment = stack_environment(settings, self._state.prefect_api_url, self._state.mlflow_url)
        servers = SERVER_RESTARTS_ALLOWED
        self._prefect = SupervisedService(prefect_server(settings, prefect_port), environment, servers)
        self._mlflow = SupervisedService(mlflow_server(settings, mlflow_port), environment, servers)
        self._worker = SupervisedService(worker(settings), environment, None)
        self._services = [self._prefect, self._mlflow, self._worker]
        self._reconciler = Reconciler(self._state.prefect_api_url)
        self._stopping = False

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT (exit code 0) or until a server cannot be kept up (1)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._publish(Phase.STARTING)
        failure = ""
        try:
            self._prefect.start()
            self._mlflow.start()
            self._supervise()
        except (ServiceFailed, OSError) as error:
            failure = str(error)
            log.error("stopping everything: %s", failure)
        self._publish(Phase.STOPPING)
        self._shut_down()
        self._publish(Phase.FAILED if failure else Phase.STOPPING, failure)
        return 1 if failure else 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        log.info("signal %d: stopping", number)
        self._stopping = True

    def _supervise(self) -> None:
        next_reconcile = 0.0
        while not self._stopping:
            for service in self._services:
                service.tick()
            self._start_worker_when_prefect_answers()
            all_healthy = all(service.healthy for service in self._services)
            self._publish(Phase.READY if all_healthy or self._state.phase is Phase.READY else Phase.STARTING)
            if self._prefect.healthy and time.monotonic() >= next_reconcile:
                self._reconcile()
                next_reconcile = time.monotonic() + RECONCILE_SECONDS
            time.sleep(TICK_SECONDS)

    def _start_worker_when_prefect_answers(self) -> None:
        if self._prefect.healthy and self._worker.state().pid is None:
            reconciled = self._try_reconciling_at_once()
            if reconciled:
                log.warning("left by an earlier stack, marked as crashed: %s", ", ".join(reconciled))
            self._worker.start()

    def _try_reconciling_at_once(self) -> list[str]:
        try:
            return reconcile_once(self._state.prefect_api_url)
        except PipelineError as error:
            log.warning("could not look for abandoned runs: %s", error)
            return []

    def _reconcile(self) -> None:
        try:
            crashed = self._reconciler.reconcile()
        except PipelineError as error:
            log.warning("could not look for abandoned runs: %s", error)
        else:
            if crashed:
                log.warning("the process was gone, marked as crashed: %s", ", ".join(crashed))

    def _shut_down(self) -> None:
        """The worker with its runs first, while the server still takes their last words; the servers last."""
        self._worker.stop(ENGINE_GRACE_SECONDS)
        servers = {service.state().pid for service in (self._prefect, self._mlflow)}
        family = processes_with_environment(STACK_ID_VARIABLE, self._settings.stack_id)
        leftover = [process for process in family if process.pid not in servers]
        stop_processes(leftover, ENGINE_GRACE_SECONDS)
        if self._prefect.healthy:
            abandoned = self._try_reconciling_at_once()
            if abandoned:
                log.info("in progress when stopped, marked as crashed: %s", ", ".join(abandoned))
        for service in (self._mlflow, self._prefect):
            service.stop(SERVER_GRACE_SECONDS)

    def _publish(self, phase: Phase, failure: str = "") -> None:
        states = {service.service.name: service.state() for service in self._services}
        state = self._state.model_copy(update={"phase": phase, "failure": failure, "services": states})
        if state != self._published:
            write_state(self._settings, state)
            self._state = self._published = state


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return "(no log was written)"


def main() -> None:
    """Entry point of the background process."""
    parser = argparse.ArgumentParser(description="Keeps the servers and the worker running.")
    parser.add_argument("--settings", required=True, help="StackSettings as JSON")
    parser.add_argument("--prefect-port", type=int, required=True)
    parser.add_argument("--mlflow-port", type=int, required=True)
    arguments = parser.parse_args()
    apply_quiet_environment()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = StackSettings.model_validate_json(arguments.settings)
    sys.exit(Supervisor(settings, arguments.prefect_port, arguments.mlflow_port).run())


if __name__ == "__main__":
    main()
