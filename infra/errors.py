"""The few exception types of the pipeline; each message names the file or field and what to do about it."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the user can act on: shown as one line, without a traceback, by the command line."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem} Fix: {fix}")
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Exceptions are pickled as a call with their `args`, which is not how ours are made: without
        # this, one raised in a worker process could not come back and would break the pool.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[PipelineError], arguments: tuple[object, ...], fields: dict[str, object]) -> PipelineError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(fields)
    return error


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
