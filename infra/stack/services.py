"""The three services of the stack: their commands, environments and health addresses."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.processes import child_environment
from infra.quiet import QUIET_ENVIRONMENT
from infra.stack.mlflow_server import ARTIFACTS_VARIABLE, DATABASE_VARIABLE
from infra.stack.settings import HOME_VARIABLE, PROJECT_VARIABLE, STACK_ID_VARIABLE, WORK_POOL, StackSettings

PREFECT = "prefect"
MLFLOW = "mlflow"
WORKER = "worker"


@dataclass(frozen=True)
class Service:
    """One child process of the supervisor."""

    name: str
    command: list[str]
    log_path: Path
    cwd: Path
    health_url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def stack_environment(settings: StackSettings, prefect_api_url: str, mlflow_url: str) -> dict[str, str]:
    """What the services, and through the worker every flow run and its children, find in their environment."""
    quiet = {name: os.environ.get(name, value) for name, value in QUIET_ENVIRONMENT.items()}
    environment = child_environment(
        {
            **quiet,
            HOME_VARIABLE: str(settings.home),
            PROJECT_VARIABLE: str(settings.project),
            STACK_ID_VARIABLE: settings.stack_id,
            "PREFECT_API_URL": prefect_api_url,
            "PREFECT_HOME": str(settings.prefect_home),
            "MLFLOW_TRACKING_URI": mlflow_url,
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": _without_proxy(settings.host),
        }
    )
    # A profile chosen in the user's shell does not exist in the stack's own PREFECT_HOME.
    environment.pop("PREFECT_PROFILE", None)
    return _with_bytecode(environment, settings)


def _without_proxy(host: str) -> str:
    already = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    return ",".join(dict.fromkeys([*filter(None, already.split(",")), host, "localhost"]))


def _with_bytecode(environment: dict[str, str], settings: StackSettings) -> dict[str, str]:
    """Where bytecode beside the sources is forbidden (many containers), keep it in our home instead.

    Without any, every start compiles all of Prefect anew: 8 seconds to a healthy server instead of 3.
    """
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(settings.home / "bytecode"))
    return environment


def prefect_server(settings: StackSettings, port: int) -> Service:
    """Prefect's API and interface, as `prefect server start` runs them, minus 2 seconds of command line.

    A database other than SQLite in our home is chosen with Prefect's own PREFECT_SERVER_DATABASE_CONNECTION_URL.
    """
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    listen = ["--host", settings.host, "--port", str(port), "--timeout-keep-alive", "5", "--no-access-log"]
    return Service(
        PREFECT,
        [*command, *listen],
        settings.log_directory / "prefect.log",
        settings.stack_directory,
        f"http://{settings.host}:{port}/api/health",
        {
            "PREFECT__SERVER_FINAL": "1",
            "PREFECT_SERVER_API_HOST": settings.host,
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_UI_API_URL": f"http://{settings.host}:{port}/api",
            # A busy machine may hold SQLite's one write lock for longer than the default ten seconds.
            "PREFECT_SERVER_DATABASE_TIMEOUT": os.environ.get("PREFECT_SERVER_DATABASE_TIMEOUT", "60"),
        },
    )


def mlflow_server(settings: StackSettings, port: int) -> Service:
    """MLflow's tracking server and registry, on SQLite unless MLFLOW_BACKEND_STORE_URI names another database."""
    directory = settings.mlflow_directory
    database = os.environ.get(DATABASE_VARIABLE) or f"sqlite:///{directory / 'mlflow.db'}"
    artifacts = os.environ.get(ARTIFACTS_VARIABLE) or str(directory / "artifacts")
    command = [sys.executable, "-m", "infra.stack.mlflow_server", "--host", settings.host, "--port", str(port)]
    return Service(
        MLFLOW,
        command,
        settings.log_directory / "mlflow.log",
        settings.stack_directory,
        f"http://{settings.host}:{port}/health",
        {DATABASE_VARIABLE: database, ARTIFACTS_VARIABLE: artifacts},
    )


def worker(settings: StackSettings) -> Service:
    """Prefect's worker. It runs in the project folder, so that flows find `pyproject.toml` and their sources.

    One run at a time: two trainings would halve each other's speed and break the measured throughput.
    """
    options = ["--pool", WORK_POOL, "--type", "process", "--limit", "1", "--name", "sam2-worker"]
    return Service(
        WORKER,
        [sys.executable, "-m", "prefect", "worker", "start", *options, "--install-policy", "never"],
        settings.log_directory / "worker.log",
        settings.project,
        environment={"PREFECT_WORKER_QUERY_SECONDS": "2"},
    )
