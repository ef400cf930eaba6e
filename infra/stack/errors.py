"""What can go wrong with the service stack, each with its fix."""

from __future__ import annotations

from pathlib import Path

from infra.errors import PipelineError


class StackError(PipelineError):
    """The Prefect server, the MLflow server or the worker cannot do what was asked."""


class PortTaken(StackError):
    """A port that the user asked for is held by another process."""

    def __init__(self, port: int, option: str, holder: str | None, free_port: int) -> None:
        held_by = f"by {holder}" if holder else "by a process that this user may not inspect"
        super().__init__(
            f"Port {port}, asked for with {option}, is held {held_by}.",
            f"stop that process, set {option}={free_port} (free now), or unset {option}: a free one is chosen.",
        )
        self.port = port


class HostNotLoopback(StackError):
    """The servers were asked to listen on an address that other machines can reach."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Host {host!r} is not a loopback address, and the Prefect and MLflow servers have no login.",
            "use 127.0.0.1, and reach it from elsewhere with `ssh -L 4200:127.0.0.1:4200 -L 5000:127.0.0.1:5000`.",
        )


class StackStartFailed(StackError):
    """A server did not become healthy."""

    def __init__(self, reason: str, log_path: Path) -> None:
        super().__init__(reason, f"read {log_path}, remove the cause, and start again with `sam2 up`.")


class StackNotRunning(StackError):
    """A command needs the servers and they are down."""

    def __init__(self, home: Path) -> None:
        super().__init__(f"The servers of {home} are not running.", "start them with `make up` (or `sam2 up`).")


class DeploymentFailed(StackError):
    """`prefect.yaml` or a flow in it could not be applied."""


class RunNotFound(StackError):
    """No flow run has the name or id that was given."""


class RunRefused(StackError):
    """The server did not accept a run or a change of its state."""
