"""Taking a process's slice of a batch."""

from __future__ import annotations

from torch import Tensor

from model.errors import ConfigurationError


def own_slice(rows: Tensor, rank: int, size: int) -> Tensor:
    """The `rank`-th of `size` equal parts of `rows` `[batch, time]` along time.

    Raises `ConfigurationError` when `size` does not divide the time.
    """
    if rows.shape[1] % size:
        raise ConfigurationError(
            f"rows of {rows.shape[1]} tokens cannot be divided into {size} equal slices: make context_tokens a "
            "multiple of sequence_parallel"
        )
    return rows.chunk(size, dim=1)[rank]


def slice_batch(
    tokens: Tensor, targets: Tensor, document_ids: Tensor | None, rank: int, size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`own_slice` of each, `[batch, time]`.

    Targets are made from the whole row first, so that the last token of a slice keeps its target, which is the
    first token of the next slice.
    """
    ids = None if document_ids is None else own_slice(document_ids, rank, size)
    return own_slice(tokens, rank, size), own_slice(targets, rank, size), ids
