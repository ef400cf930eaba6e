"""Scale-out: the parallel rounds of every data stage as datatrove pipeline steps.

They run on datatrove's local, Ray and Slurm executors.

Public surface: `ExecutionConfig`, `Executor`, `UnitExecution`; for datatrove pipelines of one's own, the
steps in `tasks.scale_out.document_steps`.
"""

from tasks.scale_out.config import ExecutionConfig, Executor
from tasks.scale_out.execution import UnitExecution

__all__ = ["ExecutionConfig", "Executor", "UnitExecution"]
