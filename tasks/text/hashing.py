"""64-bit hashes of words and of runs of words: the same numbers from compiled loops and from numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tasks.text.engine import compiled_inline

Hashes = npt.NDArray[np.uint64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
#: A word is the polynomial of its characters in this base, modulo 2**64, then mixed.
WORD_BASE = np.uint64(0xF1357AEA2E62A9C5)
#: A run of words is the polynomial of their hashes in this base, then mixed.
RUN_BASE = np.uint64(0xD1B54A32D192ED03)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


def mix(values: Hashes) -> Hashes:
    """Spread every input bit over the whole 64-bit result (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values ^ (values >> _30)
    values *= _FIRST_FACTOR
    values ^= values >> _27
    values *= _SECOND_FACTOR
    values ^= values >> _31
    return values


@compiled_inline
def mix_one(value: np.uint64) -> np.uint64:
    """`mix` of one number, for compiled loops."""
    value = value ^ (value >> _30)
    value = value * _FIRST_FACTOR
    value = value ^ (value >> _27)
    value = value * _SECOND_FACTOR
    return value ^ (value >> _31)


def contains(vocabulary: Hashes, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are in the sorted `vocabulary`."""
    if not len(vocabulary):
        return np.zeros(len(hashes), np.bool_)
    places = np.minimum(np.searchsorted(vocabulary, hashes), len(vocabulary) - 1)
    found: npt.NDArray[np.bool_] = vocabulary[places] == hashes
    return found
