"""Rows cut from the endless stream of a group of documents.

The documents are laid out one after another in an order drawn anew for every epoch, and this endless stream of
tokens is cut into rows of `context_tokens`. No token is skipped, padded or used twice within an epoch. A document
that crosses the end of a row goes on in another row, where attention and states start afresh; a row that crosses the
end of an epoch goes on with the next. The rows of an epoch are drawn in random order, so that the pieces of one long
document do not fill one batch.

Memory: 12 bytes a document (its number, its length, its place in the epoch) and 4 more while a batch reaches into
the next epoch, and 4 a row; 24 more a document for a moment, while an epoch's order is drawn.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.text.engine import compiled
from tasks.training.data_order.random_order import Numbers, random_order
from tasks.training.data_order.spans import Spans

Integers = npt.NDArray[np.int64]

#: Documents whose end is not kept: a place is found by a binary search and at most so many steps.
_BLOCK = 32


class RowSource(Protocol):
    """Endless rows of one group of documents, numbered from 0."""

    @property
    def document_count(self) -> int:
        """Documents of the group that hold tokens."""

    @property
    def epoch_tokens(self) -> int:
        """Tokens of the group, each counted once."""

    @property
    def padded_share(self) -> float:
        """Share of the places in its rows that hold no token."""

    def spans(self, rows: Integers) -> Spans:
        """What the rows of these numbers hold; places count from the first of them."""

    def target_count(self, rows: Integers) -> int:
        """Targets of those rows, without reading a token."""


class SourceStream:
    """The endless stream of one group's documents, cut into rows."""

    padded_share = 0.0

    def __init__(self, numbers: Numbers, lengths: Numbers, context_tokens: int, key: str) -> None:
        """`numbers` and `lengths` are the group's documents, none empty; `key` names the random orders."""
        self._numbers = numbers
        self._lengths = lengths
        self._context = context_tokens
        self._key = key
        self.document_count = len(numbers)
        self.epoch_tokens = int(lengths.sum(dtype=np.int64))
        # Per instance, so that the arrays are freed with the stream. Two, for rows that cross epochs.
        self._layout = lru_cache(maxsize=2)(self._lay_out)
        self._row_order = lru_cache(maxsize=2)(self._order_rows)

    def spans(self, rows: Integers) -> Spans:
        """What the rows of these numbers hold; places count from the first of them."""
        pieces = [
            (epoch, offset, count, index * self._context + place)
            for index, row in enumerate(rows.tolist())
            for epoch, offset, count, place in self._pieces(self._row_start(row))
        ]
        parts = []
        for epoch in sorted({piece[0] for piece in pieces}):
            offsets, counts, places = np.array([piece[1:] for piece in pieces if piece[0] == epoch], np.int64).T
            order, block_ends = self._layout(epoch)
            documents, *others = _cut(order, block_ends, self._lengths, offsets, counts, places)
            parts.append(Spans(self._numbers[documents].astype(np.int64), *others))
        return Spans.joined(parts)

    def target_count(self, rows: Integers) -> int:
        """Their tokens, less those that close a document."""
        starts = [self._row_start(row) for row in rows.tolist()]
        return sum(
            self._context - self._ends_before(start + self._context) + self._ends_before(start) for start in starts
        )

    def _row_start(self, row: int) -> int:
        """Position in the endless stream at which the `row`-th drawn row begins."""
        epoch = row * self._context // self.epoch_tokens
        first = self._first_row(epoch)
        return (first + int(self._row_order(epoch)[row - first])) * self._context

    def _pieces(self, start: int) -> list[tuple[int, int, int, int]]:
        """The row at `start` cut where epochs end: (epoch, position in it, tokens, place in the row) each."""
        epoch, offset = divmod(start, self.epoch_tokens)
        place = 0
        pieces = []
        while place < self._context:
            count = min(self._context - place, self.epoch_tokens - offset)
            pieces.append((epoch, offset, count, place))
            epoch, offset, place = epoch + 1, 0, place + count
        return pieces

    def _ends_before(self, position: int) -> int:
        """How many documents end at or before a position of the stream."""
        epoch, offset = divmod(position, self.epoch_tokens)
        if offset == 0:
            return epoch * self.document_count
        return epoch * self.document_count + int(_find(*self._layout(epoch), self._lengths, offset)[0])

    def _first_row(self, epoch: int) -> int:
        """The first row that begins in `epoch`."""
        return -(-epoch * self.epoch_tokens // self._context)

    def _order_rows(self, epoch: int) -> Numbers:
        count = self._first_row(epoch + 1) - self._first_row(epoch)
        return random_order(count, self._key, "rows", epoch)

    def _lay_out(self, epoch: int) -> tuple[Numbers, Integers]:
        """Order of the documents in `epoch`, and where each block of them ends, in tokens from the epoch's start."""
        order = random_order(self.document_count, self._key, "documents", epoch)
        return order, _block_ends(order, self._lengths)


@compiled
def _block_ends(order: Numbers, lengths: Numbers) -> Integers:
    blocks = (len(order) + _BLOCK - 1) // _BLOCK
    ends = np.empty(blocks, np.int64)
    end = 0
    for block in range(blocks):
        for place in range(block * _BLOCK, min(len(order), (block + 1) * _BLOCK)):
            end += lengths[order[place]]
        ends[block] = end
    return ends


@compiled
def _find(order: Numbers, block_ends: Integers, lengths: Numbers, offset: int) -> tuple[int, int]:
    """Place in the order of the document that holds position `offset`, and where it ends."""
    low, high = 0, len(block_ends)
    while low < high:
        middle = (low + high) // 2
        if block_ends[middle] <= offset:
            low = middle + 1
        else:
            high = middle
    end = block_ends[low - 1] if low > 0 else 0
    place = low * _BLOCK
    while True:
        end += lengths[order[place]]
        if end > offset:
            return place, end
        place += 1


@compiled
def _cut(
    order: Numbers,
    block_ends: Integers,
    lengths: Numbers,
    offsets: Integers,
    counts: Integers,
    places: Integers,
) -> Any:
    """The columns of `Spans` (documents by their places in `lengths`) for stretches of an epoch."""
    columns = np.empty((5, 64), np.int64)
    size = 0
    for piece in range(len(offsets)):
        offset, left, target = offsets[piece], counts[piece], places[piece]
        place, end = _find(order, block_ends, lengths, offset)
        while left > 0:
            if size == columns.shape[1]:
                larger = np.empty((5, 2 * size), np.int64)
                larger[:, :size] = columns
                columns = larger
            taken = min(left, end - offset)
            columns[0, size] = order[place]
            columns[1, size] = offset - (end - lengths[order[place]])
            columns[2, size] = taken
            columns[3, size] = target
            columns[4, size] = 1 if taken == end - offset else 0
            size += 1
            offset, left, target = offset + taken, left - taken, target + taken
            place += 1
            if left > 0:
                end += lengths[order[place]]
    return columns[0, :size], columns[1, :size], columns[2, :size], columns[3, :size], columns[4, :size]
