"""Rows worked on a few at a time, so that several passes over them find them in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# Elements worked on together: 1 MiB of float32.
TILE_ELEMENTS = 2**18


def row_tiles(rows: Tensor) -> Iterator[slice]:
    """Slices of `[rows, width]` of about `TILE_ELEMENTS` elements, at least a row each."""
    length = max(1, TILE_ELEMENTS // rows.shape[1])
    return (slice(begin, begin + length) for begin in range(0, rows.shape[0], length))
