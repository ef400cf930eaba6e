"""How a checkpoint can fail to be written."""

from __future__ import annotations

import errno

from infra.errors import PipelineError, StorageFull


class CheckpointFailed(PipelineError):
    """A checkpoint could not be written or uploaded; the ones before it are untouched."""


def explain(error: Exception, place: str) -> PipelineError:
    """The error as one of ours: StorageFull where no space or file size is left, the text of any other kept."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(
            f"the checkpoint could not be written to '{place}': {error.strerror}.",
            "free space there or raise the limit of file sizes, and run again: it continues from the last checkpoint.",
        )
    return CheckpointFailed(
        f"the checkpoint could not be written to '{place}': {type(error).__name__}: {error}.",
        "correct that and run again: training continues from the last complete checkpoint.",
    )
