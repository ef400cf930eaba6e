"""Interpolated modified Kneser-Ney n-gram models, in sorted arrays: the baselines a language model must beat.

The estimator is that of Chen & Goodman (1998), "An Empirical Study of Smoothing Techniques for
Language Modeling", section 3: raw counts at the highest order, continuation counts (how many
different symbols precede the n-gram) below it, three discounts an order, interpolation with every
lower order and at last with the uniform distribution. Nothing is pruned.

Symbols are integers 0..vocabulary_size-1 (bytes or token ids). A document starts after
`order - 1` separators, which are context only: they are never predicted, so every distribution
sums to one over the vocabulary.

Layout: the contexts of length k are numbered densely; a context's key is
`(number of the context without its oldest symbol, oldest symbol)`, an n-gram's key is
`(number of its context, predicted symbol)`. Both stay below 2**63 for any vocabulary, and fitting
is sorting: no Python loop runs over positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Key ranges up to this are numbered with a table instead of a sort (64 MiB of flags and ranks).
_TABLE_LIMIT = 1 << 24
#: Discounts for counts 1, 2, 3+ where the counts of counts cannot give them (KenLM's fallback).
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Level:
    """All n-grams with contexts of one length; arrays are sorted by key."""

    context_keys: Integers  # [contexts]
    gram_keys: Integers  # [grams]
    gram_counts: Integers  # [grams]
    discounts: Floats  # [4], by count 0, 1, 2, 3 and more
    totals: Floats  # [contexts] sum of counts
    backoff: Floats  # [contexts] weight of the lower order


class NgramModel:
    """P(symbol | the `order - 1` symbols before it). Build one with `fit`."""

    def __init__(self, order: int, vocabulary_size: int, levels: list[_Level]) -> None:
        self.order = order
        self.vocabulary_size = vocabulary_size
        self._levels = levels

    @classmethod
    def fit(cls, symbols: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer], *, order: int,
            vocabulary_size: int) -> NgramModel:  # fmt: skip
        """Estimate from documents laid end to end.

        symbols: [total] integers below `vocabulary_size`; lengths: [documents], summing to total.
        Raises ValueError for an order below 1, no text, or symbols outside the vocabulary.
        """
        _check_documents(symbols, lengths, order, vocabulary_size)
        padded, positions = _with_separators(symbols, lengths, order, vocabulary_size)
        predicted = padded[positions].astype(np.int64)
        numbers: Integers = np.zeros(len(positions), np.int64)
        context_keys = [np.zeros(1, np.int64)]
        for distance in range(1, order):
            keys = numbers * (vocabulary_size + 1) + padded[positions - distance]
            unique, numbers = _number(keys, len(context_keys[-1]) * (vocabulary_size + 1))
            context_keys.append(unique)
        grams, counts = _count(numbers * vocabulary_size + predicted)
        del numbers, padded, positions, predicted
        levels = [_finish_level(context_keys[-1], grams, counts, vocabulary_size)]
        for length in range(order - 2, -1, -1):
            parents = context_keys[length + 1] // (vocabulary_size + 1)
            grams, counts = _count(parents[grams // vocabulary_size] * vocabulary_size + grams % vocabulary_size)
            levels.append(_finish_level(context_keys[length], grams, counts, vocabulary_size))
        return cls(order, vocabulary_size, levels[::-1])

    def log_probabilities(self, symbols: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> Floats:
        """Natural logarithm of the probability of every symbol of the documents. [total]"""
        _check_documents(symbols, lengths, self.order, self.vocabulary_size)
        padded, positions = _with_separators(symbols, lengths, self.order, self.vocabulary_size)
        history = [padded[positions - distance].astype(np.int64) for distance in range(1, self.order)]
        logarithms: Floats = np.log(self._probabilities(history, padded[positions].astype(np.int64)))
        return logarithms

    def distribution(self, context: list[int]) -> Floats:
        """Probabilities of all symbols after `context`, oldest first; a short context follows separators."""
        padding = [self.vocabulary_size] * (self.order - 1)
        recent = (padding + context)[len(context) :][::-1]
        history = [np.full(self.vocabulary_size, symbol, np.int64) for symbol in recent]
        return self._probabilities(history, np.arange(self.vocabulary_size, dtype=np.int64))

    def _probabilities(self, history: list[Integers], predicted: Integers) -> Floats:
        """history[k - 1]: the symbol k places back, [positions]; predicted: [positions]."""
        numbers: Integers = np.zeros(len(predicted), np.int64)
        probabilities: Floats = np.full(len(predicted), 1.0 / self.vocabulary_size)
        for length, level in enumerate(self._levels):
            if length:
                keys = numbers * (self.vocabulary_size + 1) + history[length - 1]
                numbers = np.where(numbers >= 0, _find(level.context_keys, keys), -1)
            known = numbers >= 0
            found = _find(level.gram_keys, numbers * self.vocabulary_size + predicted)
            counts = np.where(known & (found >= 0), level.gram_counts[found], 0)
            discounted = counts - level.discounts[np.minimum(counts, 3)]
            interpolated = discounted / level.totals[numbers] + level.backoff[numbers] * probabilities
            # A context never seen says nothing: the lower order stands.
            probabilities = np.where(known, interpolated, probabilities)
        return probabilities


def _check_documents(
    symbols: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer], order: int, vocabulary_size: int
) -> None:
    if order < 1:
        raise ValueError(f"order must be at least 1, not {order}")
    if len(symbols) == 0 or int(lengths.sum()) != len(symbols):
        raise ValueError(f"lengths add up to {int(lengths.sum())}, but there are {len(symbols)} symbols")
    if int(symbols.min()) < 0 or int(symbols.max()) >= vocabulary_size:
        raise ValueError(f"symbols must lie in 0..{vocabulary_size - 1}")


def _with_separators(
    symbols: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer], order: int, separator: int
) -> tuple[npt.NDArray[np.int32], Integers]:
    """The text with `order - 1` separators before each document, and the places of the real symbols in it."""
    document = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.arange(len(symbols), dtype=np.int64) + document * (order - 1)
    padded = np.full(len(symbols) + len(lengths) * (order - 1), separator, np.int32)
    padded[positions] = symbols
    return padded, positions


def _number(keys: Integers, key_range: int) -> tuple[Integers, Integers]:
    """The sorted distinct keys, and for each key its place among them."""
    if key_range <= _TABLE_LIMIT:
        present = np.zeros(key_range, np.bool_)
        present[keys] = True
        ranks = np.cumsum(present, dtype=np.int32) - 1
        return np.flatnonzero(present), ranks[keys].astype(np.int64)
    order = np.argsort(keys)
    ordered = keys[order]
    first = _starts_of_runs(ordered)
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.cumsum(first) - 1
    return ordered[first], numbers


def _count(keys: Integers) -> tuple[Integers, Integers]:
    """The sorted distinct keys, and how often each occurs."""
    if int(keys.max()) < _TABLE_LIMIT:
        table = np.bincount(keys)
        present = np.flatnonzero(table)
        return present, table[present]
    ordered = np.sort(keys)
    starts = np.flatnonzero(_starts_of_runs(ordered))
    return ordered[starts], np.diff(starts, append=len(ordered))


def _starts_of_runs(ordered: Integers) -> npt.NDArray[np.bool_]:
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


def _find(ordered: Integers, keys: Integers) -> Integers:
    """Place of each key in `ordered`, -1 where it is not there."""
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[places] == keys, places, -1)


def _finish_level(context_keys: Integers, gram_keys: Integers, counts: Integers, vocabulary_size: int) -> _Level:
    """Discounts of the order, and for each context its total and the weight it leaves to the lower order."""
    discounts = _discounts(counts)
    contexts = gram_keys // vocabulary_size
    size = len(context_keys)
    totals = np.bincount(contexts, counts, size).astype(np.float64)
    removed = np.bincount(contexts, discounts[np.minimum(counts, 3)], size).astype(np.float64)
    return _Level(context_keys, gram_keys, counts, discounts, totals, removed / totals)


def _discounts(counts: Integers) -> Floats:
    """Modified Kneser-Ney discounts for counts 0, 1, 2, 3+ from the counts of counts (Chen & Goodman, eq. 26)."""
    ones, twos, threes, fours = (int(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4))
    if 0 in (ones, twos, threes):
        return np.array([0.0, *_FALLBACK_DISCOUNTS])
    ratio = ones / (ones + 2 * twos)
    estimates = (1 - 2 * ratio * twos / ones, 2 - 3 * ratio * threes / twos, 3 - 4 * ratio * fours / threes)
    # On odd little texts the estimates leave their range; a discount must lie within its count.
    return np.array([0.0, *(min(max(value, 0.05), limit) for value, limit in zip(estimates, (1, 2, 3), strict=True))])
