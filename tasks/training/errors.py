"""How training can end other than well."""

from __future__ import annotations

from infra.errors import PipelineError


class TrainingFailed(PipelineError):
    """The trainer stopped with an error that it could name."""


class TrainingDiverged(TrainingFailed):
    """The loss or the gradient stopped being a number."""


class TrainingInterrupted(PipelineError):
    """The trainer was asked to stop, and left a checkpoint to continue from."""


class OutOfMemory(PipelineError):
    """A micro-batch did not fit into memory."""


class StorageTrouble(PipelineError):
    """Something could not be written; it may be possible later."""


class LoaderTrouble(PipelineError):
    """The training data could not be read in time."""
