"""What a running stack tells about itself: one small file, rewritten whole, read by every command."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.processes import ProcessIdentity
from infra.stack.settings import StackSettings


class Phase(StrEnum):
    """How far a stack has come."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class ServiceState(BaseModel):
    """One supervised child process."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int | None = None
    create_time: float | None = None
    healthy: bool = False
    restarts: int = 0
    log_path: Path

    def is_alive(self) -> bool:
        if self.pid is None or self.create_time is None:
            return False
        return ProcessIdentity(self.pid, self.create_time).is_alive()


class StackState(BaseModel):
    """Written by the supervisor alone."""

    model_config = ConfigDict(frozen=True)

    stack_id: str
    supervisor_pid: int
    supervisor_create_time: float
    host: str
    prefect_port: int
    mlflow_port: int
    phase: Phase = Phase.STARTING
    failure: str = ""
    services: dict[str, ServiceState] = Field(default_factory=dict)

    @property
    def prefect_url(self) -> str:
        return f"http://{self.host}:{self.prefect_port}"

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.host}:{self.mlflow_port}"

    @property
    def supervisor(self) -> ProcessIdentity:
        return ProcessIdentity(self.supervisor_pid, self.supervisor_create_time)

    def is_running(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.READY) and self.supervisor.is_alive()


def state_path(settings: StackSettings) -> Path:
    return settings.stack_directory / "state.json"


def read_state(settings: StackSettings) -> StackState | None:
    """The last state written, or None when there is none or it is of an older form."""
    try:
        return StackState.model_validate_json(state_path(settings).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_state(settings: StackSettings, state: StackState) -> None:
    """Replace the state file atomically: a reader sees the old state or the new one, never half of one."""
    path = state_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(state.model_dump_json(indent=2), encoding="utf-8")
    temporary.replace(path)
