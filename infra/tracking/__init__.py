"""MLflow: one parent run a pipeline run, one child run a stage, the same names everywhere.

Public surface: `PipelineTracker`, `StageTracker`.
"""

from infra.tracking.runs import PipelineTracker, StageTracker

__all__ = ["PipelineTracker", "StageTracker"]
