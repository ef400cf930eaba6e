"""Candidates from band keys: rows whose keys are equal, found by sorting.

Buckets of up to `small_bucket` rows give all their pairs. Larger ones are handed on whole and compared
in `tasks.deduplication.large_buckets`, whose work grows with their size instead of its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.deduplication.pairs import first_of_each, pack
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes


@dataclass(frozen=True)
class Candidates:
    """pairs: [pairs] packed rows, in no order, perhaps repeated; large: rows of each large bucket, ascending."""

    pairs: Hashes
    large: list[Positions]


def candidates_of_band(keys: Hashes, rows: Positions, small_bucket: int, own_rows: int) -> Candidates:
    """Candidates among rows with equal keys. Rows from `own_rows` on belong to earlier runs.

    Two earlier rows are no candidates: they were compared when they were new.
    """
    shared = _in_a_bucket(keys)
    keys, rows = keys[shared], rows[shared]
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    heads = first_of_each(keys)
    sizes = np.diff(np.append(heads, len(keys)))
    has_own = rows[heads] < own_rows  # a bucket's smallest row comes first
    pairs = [np.zeros(0, np.uint64)]
    for size in np.unique(sizes[has_own & (sizes <= small_bucket)]).tolist():
        buckets = rows[heads[has_own & (sizes == size)][:, None] + np.arange(size)]
        first, second = np.triu_indices(size, 1)
        lower, upper = buckets[:, first].ravel(), buckets[:, second].ravel()
        new = lower < own_rows
        pairs.append(pack(lower[new], upper[new]))
    large = np.flatnonzero(has_own & (sizes > small_bucket))
    return Candidates(np.concatenate(pairs), [rows[heads[b] : heads[b] + sizes[b]] for b in large])


def _in_a_bucket(keys: Hashes) -> Positions:
    """Places whose key occurs more than once."""
    order = np.argsort(keys)
    ordered = keys[order]
    equal = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(keys), np.bool_)
    shared[:-1] = equal
    shared[1:] |= equal
    return order[shared]
