"""The service stack: Prefect server, MLflow server and worker, on this machine's loopback address only.

`start_stack`, `stop_stack` and `stack_status` are all a command line needs; `runs` submits and follows flow runs.
"""

from infra.stack.errors import (
    DeploymentFailed,
    HostNotLoopback,
    PortTaken,
    RunNotFound,
    RunRefused,
    StackError,
    StackNotRunning,
    StackStartFailed,
)
from infra.stack.lifecycle import StackStatus, running_state, stack_status, start_stack, stop_stack
from infra.stack.settings import StackSettings
from infra.stack.state import Phase, ServiceState, StackState

__all__ = [
    "DeploymentFailed",
    "HostNotLoopback",
    "Phase",
    "PortTaken",
    "RunNotFound",
    "RunRefused",
    "ServiceState",
    "StackError",
    "StackNotRunning",
    "StackSettings",
    "StackStartFailed",
    "StackState",
    "StackStatus",
    "running_state",
    "stack_status",
    "start_stack",
    "stop_stack",
]
