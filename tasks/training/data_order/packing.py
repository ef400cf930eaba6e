"""Rows packed so that no document that fits into a row is cut: best-fit packing.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830): documents longer than a row are
cut into pieces of a row; what remains of them and all shorter documents are sorted by length, longest first, and each
is put into the row with the least room that still holds it, or a new one. What room stays is padding.

Only lengths decide who shares a row, so this is computed once; each epoch deals the documents of one length anew to
the places of that length, and draws the rows in random order.

Memory: 20 bytes a document (number, length, place in the epoch, place in its row, and the rows' borders), 4 more
while a batch reaches into the next epoch, and 12 a row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.text.engine import compiled
from tasks.training.data_order.random_order import Numbers, number_type, random_order
from tasks.training.data_order.spans import Spans

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_WORD_BITS = 64


class PackedRows:
    """Endless rows of one group of documents, each epoch the same number of rows."""

    def __init__(self, numbers: Numbers, lengths: Numbers, context_tokens: int, key: str) -> None:
        """`numbers` and `lengths` are the group's documents, none empty; `key` names the random orders."""
        self._numbers = numbers
        self._lengths = lengths
        self._context = context_tokens
        self._key = key
        self.document_count = len(numbers)
        self.epoch_tokens = int(lengths.sum(dtype=np.int64))
        self._long = np.flatnonzero(lengths >= context_tokens)
        self._long_ends = np.cumsum(lengths[self._long].astype(np.int64) // context_tokens)
        """One past the last of the full rows that each long document gives."""
        self._full_rows = int(self._long_ends[-1]) if len(self._long) else 0
        self._histogram = _remainders(lengths, context_tokens)
        bin_of, bins = best_fit_decreasing(self._histogram)
        self._first_rank, self._ranks = _by_bin(bin_of, bins)
        self.rows_per_epoch = self._full_rows + bins
        # Per instance, so that the arrays are freed with it. Two, for batches that cross epochs.
        self._layout = lru_cache(maxsize=2)(self._lay_out)
        self._row_order = lru_cache(maxsize=2)(self._order_rows)

    @property
    def padded_share(self) -> float:
        """Share of the places in an epoch's rows that hold no token."""
        return 1 - self.epoch_tokens / (self.rows_per_epoch * self._context)

    def spans(self, rows: Integers) -> Spans:
        """What the rows of these numbers hold; places count from the first of them."""
        epochs = rows // self.rows_per_epoch
        parts = []
        for epoch in np.unique(epochs).tolist():
            indexes = np.flatnonzero(epochs == epoch)
            drawn = self._row_order(epoch)[rows[indexes] - epoch * self.rows_per_epoch]
            documents, *others = self._held(drawn.astype(np.int64), indexes * self._context, self._layout(epoch))
            parts.append(Spans(self._numbers[documents].astype(np.int64), *others))
        return Spans.joined(parts)

    def target_count(self, rows: Integers) -> int:
        """Tokens of those rows, less those that close a document."""
        epochs = rows // self.rows_per_epoch
        total = 0
        for epoch in np.unique(epochs).tolist():
            drawn = self._row_order(epoch)[rows[epochs == epoch] - epoch * self.rows_per_epoch].astype(np.int64)
            _, _, counts, _, ends = self._held(drawn, np.zeros_like(drawn), self._layout(epoch))
            total += int(counts.sum() - ends.sum())
        return total

    def _held(self, drawn: Integers, places: Integers, layout: Numbers) -> Any:
        """The columns of `Spans` for rows of an epoch, each starting at its place."""
        return _gather(
            drawn,
            places,
            self._context,
            self._full_rows,
            self._long,
            self._long_ends,
            self._first_rank,
            self._ranks,
            layout,
            self._lengths,
        )

    def _order_rows(self, epoch: int) -> Numbers:
        return random_order(self.rows_per_epoch, self._key, "rows", epoch)

    def _lay_out(self, epoch: int) -> Numbers:
        """Documents by what remains of them, most first; those that leave as much in random order."""
        order = random_order(self.document_count, self._key, "documents", epoch)
        return _sorted_by_remainder(order, self._lengths, self._histogram)


def best_fit_decreasing(histogram: Integers) -> tuple[Numbers, int]:
    """Pack items into bins of size `len(histogram)`; histogram[s] items have size s, and none has size 0.

    Returns the bin of each item, largest items first, and the number of bins. Exactly best-fit-decreasing: each item
    goes to the bin with the least room that holds it. Items of one size are placed together, as many as the bin
    holds (the bin they leave is again the one with the least room), and the bin is found in a tree of bit words, so
    the time is linear in the items.
    """
    items = int(histogram[1:].sum())
    return _best_fit_decreasing(histogram, np.empty(items, number_type(items)))


@compiled
def _remainders(lengths: Numbers, context_tokens: int) -> Integers:
    """How many documents leave each number of tokens when cut into rows."""
    histogram = np.zeros(context_tokens, np.int64)
    for length in lengths:
        histogram[length % context_tokens] += 1
    return histogram


@compiled
def _best_fit_decreasing(histogram: Integers, bin_of: Numbers) -> tuple[Numbers, int]:
    size_of_bin = len(histogram)
    words, level_starts, levels = _empty_tree(size_of_bin)
    newest = np.full(size_of_bin, -1, np.int64)  # the latest bin with so much room
    before = np.empty(1024, bin_of.dtype)  # the bin with the same room before it
    bins = 0
    item = 0
    for size in range(size_of_bin - 1, 0, -1):
        left = histogram[size]
        while left > 0:
            room = _next_set(words, level_starts, levels, size)
            if room < 0:
                chosen, room = bins, size_of_bin
                bins += 1
                if bins > len(before):
                    larger = np.empty(2 * len(before), bin_of.dtype)
                    larger[: len(before)] = before
                    before = larger
            else:
                chosen = newest[room]
                newest[room] = before[chosen]
                if newest[room] < 0:
                    _clear(words, level_starts, levels, room)
            taken = min(left, room // size)
            for _ in range(taken):
                bin_of[item] = chosen
                item += 1
            left -= taken
            room -= taken * size
            if room > 0:
                if newest[room] < 0:
                    _set(words, level_starts, levels, room)
                before[chosen] = newest[room]
                newest[room] = chosen
    return bin_of, bins


@compiled
def _empty_tree(size: int) -> tuple[Words, Integers, int]:
    """A set of numbers below `size`: words of bits, and above them words that tell which words below are not 0."""
    level_starts = np.zeros(16, np.int64)
    levels = 0
    total = 0
    while True:
        size = (size + _WORD_BITS - 1) // _WORD_BITS
        level_starts[levels] = total
        total += size
        levels += 1
        if size <= 1:
            break
    return np.zeros(total, np.uint64), level_starts, levels


@compiled
def _set(words: Words, level_starts: Integers, levels: int, value: int) -> None:
    for level in range(levels):
        words[level_starts[level] + value // _WORD_BITS] |= np.uint64(1) << np.uint64(value % _WORD_BITS)
        value //= _WORD_BITS


@compiled
def _clear(words: Words, level_starts: Integers, levels: int, value: int) -> None:
    for level in range(levels):
        place = level_starts[level] + value // _WORD_BITS
        words[place] &= ~(np.uint64(1) << np.uint64(value % _WORD_BITS))
        if words[place] != np.uint64(0):
            return
        value //= _WORD_BITS


@compiled
def _next_set(words: Words, level_starts: Integers, levels: int, value: int) -> int:
    """The smallest number of the set that is at least `value`, or -1."""
    for level in range(levels):
        place = value // _WORD_BITS
        stop = level_starts[level + 1] if level + 1 < levels else len(words)
        if level_starts[level] + place >= stop:
            return -1
        word = words[level_starts[level] + place] >> np.uint64(value % _WORD_BITS)
        if word != np.uint64(0):
            value += _lowest_bit(word)
            for lower in range(level - 1, -1, -1):
                value = value * _WORD_BITS + _lowest_bit(words[level_starts[lower] + value])
            return value
        value = place + 1
    return -1


@compiled
def _lowest_bit(word: np.uint64) -> int:
    place = 0
    for half in (32, 16, 8, 4, 2, 1):
        if word & ((np.uint64(1) << np.uint64(half)) - np.uint64(1)) == np.uint64(0):
            word >>= np.uint64(half)
            place += half
    return place


@compiled
def _by_bin(bin_of: Numbers, bins: int) -> tuple[Integers, Numbers]:
    """Items by bin: where each bin's items begin, and the items."""
    firsts = np.zeros(bins + 1, np.int64)
    for number in bin_of:
        firsts[number + 1] += 1
    for number in range(bins):
        firsts[number + 1] += firsts[number]
    items = np.empty_like(bin_of)
    following = firsts[:-1].copy()
    for item in range(len(bin_of)):
        items[following[bin_of[item]]] = item
        following[bin_of[item]] += 1
    return firsts, items


@compiled
def _sorted_by_remainder(order: Numbers, lengths: Numbers, histogram: Integers) -> Numbers:
    """The documents of `order` that leave something, most first, otherwise in that order."""
    context_tokens = len(histogram)
    following = np.zeros(context_tokens, np.int64)
    for size in range(context_tokens - 2, -1, -1):
        following[size] = following[size + 1] + histogram[size + 1]
    ranked = np.empty(len(order) - histogram[0], order.dtype)
    for document in order:
        size = lengths[document] % context_tokens
        if size > 0:
            ranked[following[size]] = document
            following[size] += 1
    return ranked


@compiled
def _gather(
    drawn: Integers,
    places: Integers,
    context_tokens: int,
    full_rows: int,
    long: Integers,
    long_ends: Integers,
    first_rank: Integers,
    ranks: Numbers,
    ranked: Numbers,
    lengths: Numbers,
) -> Any:
    """The columns of `Spans` (documents by their places in `lengths`) of rows of an epoch."""
    size = 0
    for row in drawn:
        size += 1 if row < full_rows else first_rank[row - full_rows + 1] - first_rank[row - full_rows]
    columns = np.empty((5, size), np.int64)
    span = 0
    for index in range(len(drawn)):
        row, target = drawn[index], places[index]
        if row < full_rows:
            holder = np.searchsorted(long_ends, row, side="right")
            document = long[holder]
            pieces = lengths[document] // context_tokens
            first = (row - (long_ends[holder] - pieces)) * context_tokens
            columns[0, span] = document
            columns[1, span] = first
            columns[2, span] = context_tokens
            columns[3, span] = target
            columns[4, span] = 1 if first + context_tokens == lengths[document] else 0
            span += 1
            continue
        for place in range(first_rank[row - full_rows], first_rank[row - full_rows + 1]):
            document = ranked[ranks[place]]
            count = lengths[document] % context_tokens
            columns[0, span] = document
            columns[1, span] = lengths[document] - count
            columns[2, span] = count
            columns[3, span] = target
            columns[4, span] = 1
            target += count
            span += 1
    return columns[0], columns[1], columns[2], columns[3], columns[4]
