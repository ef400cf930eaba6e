"""Orders drawn from a key: Philox's raw output, stable across numpy versions, sorted stably."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tasks.text.engine import compiled

#: Numbers of documents and rows: int32 where they fit, which halves the memory of an epoch's layout.
Numbers = npt.NDArray[np.integer[Any]]

_DIGIT_BITS = 11
#: Below so many, numpy's stable sort is as quick.
_FEW = 4096


def random_order(count: int, *key: object) -> Numbers:
    """A permutation of `count` numbers that depends on `key` alone: the stable order of random 64-bit keys."""
    digest = xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())
    keys = np.random.Philox(key=digest).random_raw(count)
    if count < _FEW:
        return np.argsort(keys, kind="stable").astype(number_type(count))
    return _stable_order(keys, np.empty(count, number_type(count)), _digits(count))


def number_type(count: int) -> type[np.int32] | type[np.int64]:
    """The smallest type that numbers `count` things."""
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def _digits(count: int) -> int:
    """Leading digits to sort by, so that only a few keys are equal in all of them."""
    return max(1, -(-(count.bit_length() - 2) // _DIGIT_BITS))


@compiled
def _stable_order(keys: npt.NDArray[np.uint64], order: Numbers, digits: int) -> Numbers:
    """Stable argsort of `keys`, which are overwritten: radix passes over the leading digits, insertion for the rest."""
    count = len(keys)
    for place in range(count):
        order[place] = place
    other_keys, other_order = np.empty_like(keys), np.empty_like(order)
    starts = np.empty((1 << _DIGIT_BITS) + 1, np.int64)
    mask = np.uint64((1 << _DIGIT_BITS) - 1)
    for digit in range(digits):
        shift = np.uint64(64 - _DIGIT_BITS * (digits - digit))
        starts[:] = 0
        for key in keys:
            starts[np.int64((key >> shift) & mask) + 1] += 1
        for value in range(1 << _DIGIT_BITS):
            starts[value + 1] += starts[value]
        for place in range(count):
            leading = np.int64((keys[place] >> shift) & mask)
            other_keys[starts[leading]] = keys[place]
            other_order[starts[leading]] = order[place]
            starts[leading] += 1
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    for place in range(1, count):
        key, number, before = keys[place], order[place], place - 1
        while before >= 0 and keys[before] > key:
            keys[before + 1], order[before + 1] = keys[before], order[before]
            before -= 1
        keys[before + 1], order[before + 1] = key, number
    return order
