"""Pairs of rows as single numbers, so that sorting and removing repetitions are one fast operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infra.errors import ConfigurationError
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes

_ROW_BITS = np.uint64(32)
_ROW_MASK = np.uint64(0xFFFFFFFF)
MOST_ROWS = 1 << 32


def check_rows(rows: int) -> None:
    """Raise ConfigurationError when rows do not fit a pair."""
    if rows >= MOST_ROWS:
        raise ConfigurationError(
            f"{rows} documents are more than one deduplication run can number ({MOST_ROWS}).",
            "split them into several runs, each with the indexes of those before it in `reference_indexes`.",
        )


def pack(first: Positions, second: Positions) -> Hashes:
    """[pairs] numbers of row pairs; the smaller row goes first, so their order is that of (smaller, larger)."""
    low = np.minimum(first, second).astype(np.uint64)
    packed: Hashes = (low << _ROW_BITS) | np.maximum(first, second).astype(np.uint64)
    return packed


def unpack(pairs: Hashes) -> tuple[Positions, Positions]:
    """The smaller and the larger rows."""
    return (pairs >> _ROW_BITS).astype(np.int64), (pairs & _ROW_MASK).astype(np.int64)


def union(parts: Sequence[Hashes]) -> Hashes:
    """All pairs of all parts, sorted, each once."""
    if not parts:
        return np.zeros(0, np.uint64)
    return sorted_distinct(np.concatenate(parts))


def sorted_distinct(values: Hashes) -> Hashes:
    """Sorted, each once."""
    values = np.sort(values)
    return values[first_of_each(values)]


def first_of_each(values: Hashes) -> Positions:
    """Where each distinct value of a sorted array begins."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
