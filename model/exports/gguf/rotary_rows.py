"""The order of a head's rows in query and key matrices, which decides what rotary positions turn together.

Our attention turns channel i with channel i + head_dim / 2 (half-split, llama.cpp's NEOX); llama.cpp's
NORM turns neighbours 2i and 2i + 1. Scores are the same when rows of queries and keys change places alike.
"""

from __future__ import annotations

from torch import Tensor

from model.exports.gguf.layout import Transform


def to_neighbours(heads: int) -> Transform:
    """Rows [heads * head_dim, width] so that each half-split pair becomes a pair of neighbours."""

    def reorder(rows: Tensor) -> Tensor:
        paired: Tensor = rows.unflatten(0, (heads, 2, -1))
        return paired.transpose(1, 2).flatten(0, 2)

    return reorder


def to_half_split(heads: int) -> Transform:
    """The way back."""

    def reorder(rows: Tensor) -> Tensor:
        paired: Tensor = rows.unflatten(0, (heads, -1, 2))
        return paired.transpose(1, 2).flatten(0, 2)

    return reorder
