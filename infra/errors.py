"""The few exception types of the pipeline; each message names the file or field and what to do about it."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the user can act on: shown as one line, without a traceback, by the command line."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem} Fix: {fix}")
        self.problem = problem
        self.fix = fix


class ConfigurationError(PipelineError):
    """A profile, a field or a combination of fields that cannot work."""


class SourceError(PipelineError):
    """A data source that cannot be read."""


class ArtifactCorrupted(PipelineError):
    """A finished artifact or shard whose files no longer match the manifest's checksums."""


class StorageFull(PipelineError):
    """No space left where artifacts are written."""


class LeaseLost(PipelineError):
    """Another process took over this artifact because our heartbeat stopped."""


class BudgetExceeded(PipelineError):
    """The ledger has reached the profile's ceiling."""
