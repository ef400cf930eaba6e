"""How training can end other than well."""

from __future__ import annotations

from infra.errors import PipelineError


class TrainingFailed(PipelineError):
    """The trainer stopped with an error that it could name."""


class TrainingDiverged(TrainingFailed):
    """The loss or the gradient stopped being a number."""


class TrainingInterrupted(PipelineError):
    """The trainer was asked to stop, and left a checkpoint to continue from."""
