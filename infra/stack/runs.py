"""Submit, follow, retry and find flow runs, over the Prefect server's HTTP interface."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from infra.stack.errors import DeploymentFailed, RunNotFound, RunRefused
from infra.stack.web import ServerRefused, ServerUnreachable, request_json

PIPELINE = "sam2-full-pipeline/local"
TERMINAL_STATES = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
RETRYABLE_STATES = frozenset({"FAILED", "CRASHED", "CANCELLED"})
POLL_SECONDS = 1.0
LOG_PAGE = 200
PREFECT_REPEATS = ("Engine execution exited with",)
PREFECT_WORKINGS = (
    "Running 1 deployment pull step",
    "Executing deployment step",
    "Deployment step",
    "All deployment steps",
    "Beginning flow run",
    "Finished in state",
)
SERVER_RESTART_SECONDS = 120.0


@dataclass(frozen=True)
class FlowRun:
    """One run of a flow, as the server last told."""

    id: str
    name: str
    state_type: str
    state_name: str
    message: str
    parameters: dict[str, Any]
    created: datetime
    total_seconds: float

    @property
    def is_over(self) -> bool:
        return self.state_type in TERMINAL_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a person's answer."""
        return self.state_type == "PAUSED"

    @property
    def profile(self) -> str:
        return str(self.parameters.get("profile") or "smoke")


@dataclass(frozen=True)
class LogLine:
    """One line a flow or task logged."""

    timestamp: datetime
    level: int
    message: str
    logger: str

    @property
    def is_plumbing(self) -> bool:
        """Prefect telling of its own workings, or repeating a traceback: of use in the full log only."""
        if self.message.startswith(PREFECT_REPEATS):
            return True
        return self.level < logging.WARNING and (
            self.message.startswith(PREFECT_WORKINGS) or self.logger == "prefect.flow_runs.worker"
        )


@dataclass(frozen=True)
class StageChange:
    """A task run (a stage) has a new state."""

    name: str
    state_name: str
    seconds: float


@dataclass(frozen=True)
class Progress:
    """A progress artifact's new value; `detail` says where the work is."""

    label: str
    percent: float
    detail: str = ""


@dataclass(frozen=True)
class RunChange:
    """The flow run has a new state."""

    run: FlowRun


Event = LogLine | StageChange | Progress | RunChange


@dataclass
class PrefectRuns:
    """The flow runs of one Prefect server."""

    api_url: str

    def submit(self, parameters: Mapping[str, Any], deployment: str = PIPELINE) -> FlowRun:
        """Start a run of a deployment.

        Raises:
            DeploymentFailed: there is no such deployment.
            RunRefused: the parameters do not fit the flow's.
        """
        try:
            found = request_json("GET", f"{self.api_url}/deployments/name/{quote(deployment)}")
            answer = request_json(
                "POST",
                f"{self.api_url}/deployments/{found['id']}/create_flow_run",
                {"parameters": dict(parameters)},
            )
        except ServerRefused as error:
            if error.status == 404:
                raise DeploymentFailed(f"There is no deployment {deployment}.", "run `sam2 up`.") from error
            raise RunRefused(
                f"The server refused the run: {error.detail}.", "correct the parameters it names."
            ) from error
        return _flow_run(answer)

    def read(self, flow_run_id: str) -> FlowRun:
        return _flow_run(request_json("GET", f"{self.api_url}/flow_runs/{flow_run_id}"))

    def latest(self, limit: int = 5) -> list[FlowRun]:
        """The newest runs first, without the runs that other runs started."""
        body = {
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": limit,
            "flow_runs": {"parent_task_run_id": {"is_null_": True}},
        }
        return [_flow_run(run) for run in request_json("POST", f"{self.api_url}/flow_runs/filter", body)]

    def find(self, name_or_id: str) -> FlowRun:
        """A run by its name or id, or the newest for `latest`.

        Raises:
            RunNotFound: there is none.
        """
        found = self.latest(limit=1) if name_or_id == "latest" else self._matching(name_or_id)
        if not found:
            raise RunNotFound(f"There is no flow run {name_or_id!r}.", "see the last runs with `sam2 status`.")
        return found[0]

    def _matching(self, name_or_id: str) -> list[FlowRun]:
        try:
            condition = {"id": {"any_": [str(uuid.UUID(name_or_id))]}}
        except ValueError:
            condition = {"name": {"any_": [name_or_id]}}
        body = {"flow_runs": condition, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        return [_flow_run(run) for run in request_json("POST", f"{self.api_url}/flow_runs/filter", body)]

    def retry(self, run: FlowRun) -> FlowRun:
        """Schedule a finished run again under its own id: finished stages are found and skipped.

        Raises:
            RunRefused: the run is still going, or has completed.
        """
        if run.is_waiting:
            raise RunRefused(f"Run {run.name} waits for your answer.", f"give it: sam2 answer {run.name}.")
        if run.state_type not in RETRYABLE_STATES:
            raise RunRefused(
                f"Run {run.name} is {run.state_name}, and only failed, crashed and cancelled runs can be retried.",
                "start a new one with `sam2 run`.",
            )
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retried with `sam2 retry`."}
        url = f"{self.api_url}/flow_runs/{run.id}/set_state"
        answer = request_json("POST", url, {"state": state, "force": True})
        if answer["status"] != "ACCEPT":
            raise RunRefused(f"The server did not retry {run.name}: {answer['details']}.", "see its page.")
        return self.read(run.id)

    def waiting(self) -> list[FlowRun]:
        """The runs that wait for a person's answer, newest first."""
        body = {
            "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}, "parent_task_run_id": {"is_null_": True}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": LOG_PAGE,
        }
        return [_flow_run(run) for run in request_json("POST", f"{self.api_url}/flow_runs/filter", body)]

    def answer(self, run: FlowRun, answer: Mapping[str, Any]) -> FlowRun:
        """Give a waiting run its answer and let it go on.

        Raises:
            RunRefused: the run does not wait, or the answer does not fit its form.
        """
        if not run.is_waiting:
            raise RunRefused(f"Run {run.name} is {run.state_name} and asks nothing.", "see `sam2 status`.")
        result = request_json("POST", f"{self.api_url}/flow_runs/{run.id}/resume", {"run_input": dict(answer)})
        if result["status"] != "ACCEPT":
            reason = (result.get("details") or {}).get("reason") or result["status"]
            raise RunRefused(f"The server did not take the answer for {run.name}: {reason}.", "correct it.")
        return self.read(run.id)

    def follow(self, flow_run_id: str) -> Iterator[Event]:
        """Everything that happens in a run, as it happens, until it is over.

        Raises:
            ServerUnreachable: the server stays away for longer than a restart takes.
        """
        follower = _Follower(self, flow_run_id)
        last_answer = time.monotonic()
        while True:
            try:
                yield from follower.news()
                last_answer = time.monotonic()
            except ServerUnreachable:
                if time.monotonic() - last_answer > SERVER_RESTART_SECONDS:
                    raise
            if follower.is_over:
                return
            time.sleep(POLL_SECONDS)

    def logs(self, flow_run_id: str) -> list[LogLine]:
        """All log lines of a run, oldest first."""
        return [line for line in self._log_lines(flow_run_id, None, set()) if isinstance(line, LogLine)]

    def _log_lines(self, flow_run_id: str, after: str | None, seen: set[str]) -> Iterator[LogLine]:
        conditions: dict[str, Any] = {"flow_run_id": {"any_": [flow_run_id]}}
        if after is not None:
            conditions["timestamp"] = {"after_": after}
        offset = 0
        while True:
            body = {"logs": conditions, "sort": "TIMESTAMP_ASC", "limit": LOG_PAGE, "offset": offset}
            page = request_json("POST", f"{self.api_url}/logs/filter", body)
            for entry in page:
                if entry["id"] not in seen:
                    seen.add(entry["id"])
                    yield LogLine(
                        datetime.fromisoformat(entry["timestamp"]), entry["level"], entry["message"], entry["name"]
                    )
            if len(page) < LOG_PAGE:
                return
            offset += LOG_PAGE


# Clients send their logs in batches, so a line can arrive after a later one of another process.
LATE_LOG_SECONDS = 15.0
# After the end of a run, its last batch of logs may still be on the way.
LAST_LOGS_SECONDS = 3.0


@dataclass
class _Follower:
    runs: PrefectRuns
    flow_run_id: str
    is_over: bool = False
    _state: str = ""
    _stages: dict[str, str] = field(default_factory=dict)
    _progress: dict[str, Progress] = field(default_factory=dict)
    _seen_logs: set[str] = field(default_factory=set)
    _newest_log: datetime | None = None

    def news(self) -> Iterator[Event]:
        run = self.runs.read(self.flow_run_id)
        if run.is_over:
            time.sleep(LAST_LOGS_SECONDS)
        else:
            yield from self._run_change(run)
        yield from self._new_logs()
        yield from self._new_stages()
        yield from self._new_progress()
        yield from self._run_change(run)
        self.is_over = run.is_over

    def _run_change(self, run: FlowRun) -> Iterator[Event]:
        if run.state_name != self._state:
            self._state = run.state_name
            yield RunChange(run)

    def _new_stages(self) -> Iterator[Event]:
        body = {
            "flow_runs": {"id": {"any_": [self.flow_run_id]}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": LOG_PAGE,
        }
        for task in request_json("POST", f"{self.runs.api_url}/task_runs/filter", body):
            state = task.get("state_name") or "Pending"
            if state not in ("Pending", self._stages.get(task["id"])):
                self._stages[task["id"]] = state
                yield StageChange(task["name"], state, task.get("total_run_time") or 0.0)

    def _new_logs(self) -> Iterator[Event]:
        after = None
        if self._newest_log is not None:
            after = datetime.fromtimestamp(
                self._newest_log.timestamp() - LATE_LOG_SECONDS, tz=self._newest_log.tzinfo
            ).isoformat()
        for line in self.runs._log_lines(self.flow_run_id, after, self._seen_logs):
            if self._newest_log is None or line.timestamp > self._newest_log:
                self._newest_log = line.timestamp
            yield line

    def _new_progress(self) -> Iterator[Event]:
        body = {
            "artifacts": {"flow_run_id": {"any_": [self.flow_run_id]}, "type": {"any_": ["progress"]}},
            "limit": LOG_PAGE,
        }
        for artifact in request_json("POST", f"{self.runs.api_url}/artifacts/filter", body):
            description = artifact.get("description") or artifact.get("key") or "progress"
            label, _, detail = description.partition(": ")
            progress = Progress(label, float(artifact["data"] or 0.0), detail)
            if self._progress.get(artifact["id"]) != progress:
                self._progress[artifact["id"]] = progress
                yield progress


def run_page(prefect_url: str, flow_run_id: str) -> str:
    """The address of a run's page in Prefect's interface."""
    return f"{prefect_url}/runs/flow-run/{flow_run_id}"


def mlflow_run_page(mlflow_url: str, flow_run_id: str) -> str | None:
    """The address of the parent MLflow run of a flow run, or None when it logged nothing.

    Raises:
        ServerUnreachable: the MLflow server does not answer.
    """
    api = f"{mlflow_url}/api/2.0/mlflow"
    experiments = request_json("POST", f"{api}/experiments/search", {"max_results": 1000}).get("experiments", [])
    body = {
        "experiment_ids": [experiment["experiment_id"] for experiment in experiments],
        "filter": f"tags.`prefect.flow_run_id` = '{flow_run_id}'",
        "max_results": 200,
    }
    for run in request_json("POST", f"{api}/runs/search", body).get("runs", []):
        tags = {tag["key"] for tag in run["data"].get("tags", [])}
        if "mlflow.parentRunId" not in tags:
            info = run["info"]
            return f"{mlflow_url}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}"
    return None


def _flow_run(answer: Mapping[str, Any]) -> FlowRun:
    state = answer.get("state") or {}
    return FlowRun(
        id=answer["id"],
        name=answer["name"],
        state_type=answer.get("state_type") or "PENDING",
        state_name=answer.get("state_name") or "Pending",
        message=state.get("message") or "",
        parameters=answer.get("parameters") or {},
        created=datetime.fromisoformat(answer["created"]),
        total_seconds=answer.get("total_run_time") or 0.0,
    )
