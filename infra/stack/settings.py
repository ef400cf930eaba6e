"""Where the stack keeps its files and on which ports it listens."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.stack.errors import HostNotLoopback, StackError

DEFAULT_PREFECT_PORT = 4200
DEFAULT_MLFLOW_PORT = 5000
PREFECT_PORT_VARIABLE = "SAM2_PREFECT_PORT"
MLFLOW_PORT_VARIABLE = "SAM2_MLFLOW_PORT"
HOME_VARIABLE = "SAM2_HOME"
PROJECT_VARIABLE = "SAM2_PROJECT"
HOST_VARIABLE = "SAM2_HOST"
STACK_ID_VARIABLE = "SAM2_STACK_ID"
WORK_POOL = "local"


def source_directory() -> Path:
    """The checkout this code runs from: the folder of `prefect.yaml`, `flows/` and `infra/`."""
    return Path(__file__).resolve().parents[2]


class StackSettings(BaseModel):
    """Everything that can be chosen about the stack; `from_environment` is how entry points make one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(description="All state lives here: databases, artifacts, logs, process ids.")
    project: Path = Field(description="The folder with prefect.yaml; flow runs work in it.")
    host: str = Field(default="127.0.0.1", description="Loopback address the servers listen on.")
    prefect_port: int | None = Field(
        default=None, ge=1, le=65535, description="Exactly this port, or None: 4200 or the next free one."
    )
    mlflow_port: int | None = Field(
        default=None, ge=1, le=65535, description="Exactly this port, or None: 5000 or the next free one."
    )
    publish_profile: bool = Field(
        default=True, description="Also tell the user's own Prefect profiles about the server."
    )
    start_timeout_seconds: float = Field(default=240, gt=0, description="How long the servers may take to start.")

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        prefect_port: int | None = None,
        mlflow_port: int | None = None,
    ) -> StackSettings:
        """Settings from SAM2_HOME, SAM2_PROJECT, SAM2_HOST, SAM2_PREFECT_PORT, SAM2_MLFLOW_PORT and the options.

        Raises:
            HostNotLoopback: the host could be reached from other machines.
            StackError: a port is not a number from 1 to 65535.
        """
        variables = os.environ if environment is None else environment
        project = Path(variables.get(PROJECT_VARIABLE) or source_directory()).resolve()
        return cls(
            home=Path(variables.get(HOME_VARIABLE) or project / ".sam2").expanduser().resolve(),
            project=project,
            host=loopback_host(variables.get(HOST_VARIABLE) or "127.0.0.1"),
            prefect_port=prefect_port or _port_in(variables, PREFECT_PORT_VARIABLE),
            mlflow_port=mlflow_port or _port_in(variables, MLFLOW_PORT_VARIABLE),
            publish_profile=variables.get("SAM2_PUBLISH_PROFILE", "true").lower() not in {"0", "false", "no"},
        )

    @property
    def stack_directory(self) -> Path:
        return self.home / "stack"

    @property
    def log_directory(self) -> Path:
        return self.stack_directory / "logs"

    @property
    def prefect_home(self) -> Path:
        return self.home / "prefect"

    @property
    def mlflow_directory(self) -> Path:
        return self.home / "mlflow"

    @property
    def runs_directory(self) -> Path:
        """Where a flow leaves `<flow_run_id>/summary.txt` and `summary.json`."""
        return self.home / "runs"

    @property
    def stack_id(self) -> str:
        """The same for every stack of this home, so that what an earlier, killed one left behind is found too."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:16]


def loopback_host(host: str) -> str:
    """The host, if only this machine can reach it.

    Raises:
        HostNotLoopback: it is another address or a name; `localhost` is accepted as 127.0.0.1.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.IPv4Address(host).is_loopback:
            return host
    except ipaddress.AddressValueError:
        pass
    raise HostNotLoopback(host)


def _port_in(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name)
    if not text:
        return None
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise StackError(f"{name}={text!r} is not a port.", "set a number from 1 to 65535, or unset it.")
    return int(text)
