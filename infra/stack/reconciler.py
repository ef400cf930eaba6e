"""Finds flow runs whose process is gone and marks them Crashed, so that Retry works.

Prefect leaves a run Running for ever when its worker is stopped or the machine dies, and refuses to retry it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from infra.stack.web import ServerRefused, request_json

UNFINISHED = ["RUNNING", "PENDING", "CANCELLING"]
# A pending run without a process is normal while the worker starts it: importing torch alone takes seconds.
PENDING_GRACE = timedelta(seconds=120)
PAGE = 200


@dataclass
class Reconciler:
    """Call `reconcile` every few seconds: a run is marked on the second look that finds its process gone.

    The second look is for the worker, which reports a crash of its own child with the exit code, and for a run
    that has just ended by itself.
    """

    api_url: str
    looks: int = 2
    _missing: dict[str, int] = field(default_factory=dict)

    def reconcile(self) -> list[str]:
        """The names of the runs marked Crashed by this look.

        Raises:
            ServerUnreachable: the Prefect server does not answer.
        """
        gone = [run for run in _unfinished_runs(self.api_url) if _process_is_gone(run)]
        self._missing = {run["id"]: self._missing.get(run["id"], 0) + 1 for run in gone}
        due = [run for run in gone if self._missing[run["id"]] >= self.looks]
        return [run["name"] for run in due if _mark_crashed(self.api_url, run)]


def reconcile_once(api_url: str) -> list[str]:
    """Mark at once, at start-up or before shutdown, when no worker is there to report a crash itself."""
    return Reconciler(api_url, looks=1).reconcile()


def _unfinished_runs(api_url: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    while True:
        body = {
            "flow_runs": {
                "state": {"type": {"any_": UNFINISHED}},
                "parent_task_run_id": {"is_null_": True},  # a subflow lives in its parent's process
            },
            "limit": PAGE,
            "offset": len(runs),
        }
        page = request_json("POST", f"{api_url}/flow_runs/filter", body)
        runs.extend(page)
        if len(page) < PAGE:
            return runs


def _process_is_gone(run: dict[str, Any]) -> bool:
    recorded = run.get("infrastructure_pid")
    if not recorded:
        since = datetime.fromisoformat(run["state"]["timestamp"])
        return datetime.now(UTC) - since > PENDING_GRACE
    pid_text = str(recorded).rpartition(":")[2]
    return not (pid_text.isdigit() and _is_engine_of(int(pid_text), run["id"]))


def _is_engine_of(pid: int, flow_run_id: str) -> bool:
    """Whether a process is the engine of this very run: ids are reused, the run's id in its environment is not."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run_id
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # another user's process: not ours to judge


def _mark_crashed(api_url: str, run: dict[str, Any]) -> bool:
    """Set the state unless the run has ended meanwhile; whether it was set."""
    current = request_json("GET", f"{api_url}/flow_runs/{run['id']}")
    if current["state_type"] not in UNFINISHED or not _process_is_gone(current):
        return False
    state = {"type": "CRASHED", "name": "Crashed", "message": "The process of this run is gone. Retry resumes it."}
    body = {"state": state, "force": current["state_type"] == "CANCELLING"}
    try:
        answer = request_json("POST", f"{api_url}/flow_runs/{run['id']}/set_state", body)
    except ServerRefused:
        return False
    return bool(answer["status"] == "ACCEPT")
