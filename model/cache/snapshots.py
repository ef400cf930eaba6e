"""Copies of the recurrent states at chosen lengths: a state cannot be cut back, only returned to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SnapshotPolicy:
    """When a cache copies its states, and how many copies of a row it keeps.

    A copy takes as much memory as the states themselves (`sizing.cache_size(...).states` a row), at any length.
    """

    every_tokens: int = 2048
    limit: int = 8

    def __post_init__(self) -> None:
        if self.every_tokens < 1 or self.limit < 0:
            raise ValueError(
                f"every_tokens={self.every_tokens} and limit={self.limit}: give at least 1, and at least 0 (none)"
            )

    def due(self, before: int, after: int) -> bool:
        """Whether a call that took a row from `before` to `after` tokens passed a multiple of `every_tokens`."""
        return self.limit > 0 and after // self.every_tokens > before // self.every_tokens


DEFAULT_SNAPSHOTS = SnapshotPolicy()
NO_SNAPSHOTS = SnapshotPolicy(limit=0)


@dataclass(frozen=True)
class Snapshot:
    """The states of one row after `length` tokens: a dictionary a layer, tensors `[1, ...]`, never written to."""

    length: int
    layers: tuple[dict[str, Tensor], ...]

    def size_bytes(self) -> int:
        """Bytes of the copied states."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values())


def with_snapshot(kept: Sequence[Snapshot], new: Snapshot, limit: int) -> list[Snapshot]:
    """`kept` (by length) and `new`, thinned to `limit`.

    The newest always stays; of the others goes the one whose neighbours are nearest to each other, so that what
    stays is spread evenly however long the sequence grows.
    """
    snapshots = [snapshot for snapshot in kept if snapshot.length < new.length]
    snapshots.append(new)
    while len(snapshots) > limit:
        lengths = [0, *(snapshot.length for snapshot in snapshots)]
        gaps = [lengths[place + 2] - lengths[place] for place in range(len(snapshots) - 1)]
        snapshots.pop(gaps.index(min(gaps)) if gaps else 0)
    return snapshots
