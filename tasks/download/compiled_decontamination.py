"""The compiled loop behind `tasks.download.decontamination`."""

from __future__ import annotations

import numpy as np

from tasks.text.batch import Positions
from tasks.text.engine import compiled
from tasks.text.hashing import RUN_BASE, Hashes, mix_one

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LOW_BITS = np.uint64(63)
_WORD_SHIFT = np.uint64(6)


@compiled
def count_shared(
    words: Hashes,
    first: Positions,
    length: int,
    oldest_factor: np.uint64,
    marks: Hashes,
    index: Hashes,
    members: Hashes,
    counts: Positions,
    sets: Hashes,
) -> None:
    """Per text: how many of its runs of `length` words are in the sorted `index`, and the union of their sets.

    The hash of a run is rolled: the oldest word leaves with `oldest_factor` = RUN_BASE ** length. `marks` is a
    bitmap over the hashes' low bits (a power of two of 64-bit words), so that nearly every run is decided by one load.
    """
    slots = np.uint64(len(marks)) - _ONE
    for text in range(len(first) - 1):
        start, stop = first[text], first[text + 1]
        rolled, shared, union = _ZERO, np.int64(0), _ZERO
        for word in range(start, stop):
            rolled = rolled * RUN_BASE + words[word]
            if word - start >= length:
                rolled = rolled - words[word - length] * oldest_factor
            if word - start + 1 >= length:
                value = mix_one(rolled)
                if (marks[(value >> _WORD_SHIFT) & slots] >> (value & _LOW_BITS)) & _ONE:
                    low, high = np.int64(0), np.int64(len(index))
                    while low < high:
                        middle = (low + high) // 2
                        if index[middle] < value:
                            low = middle + 1
                        else:
                            high = middle
                    if low < len(index) and index[low] == value:
                        shared += 1
                        union = union | members[low]
        counts[text], sets[text] = shared, union
