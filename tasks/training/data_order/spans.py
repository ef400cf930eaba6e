"""Stretches of documents, and how they are copied from the shards into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.text.engine import compiled
from tasks.training.data_order.batch import NO_TARGET, PADDING_TOKEN

Integers = npt.NDArray[np.int64]


class Shard(Protocol):
    """A file of documents' tokens, one after another (`TokenShard` is one)."""

    def __len__(self) -> int:
        """Documents of the shard."""

    @property
    def path(self) -> Path:
        """The file that tokens are read from, for people."""

    @property
    def tokens(self) -> npt.NDArray[np.integer[Any]]:
        """All tokens of the shard."""

    def starts(self, numbers: Integers) -> Integers:
        """Where in `tokens` each of the documents `numbers` of this shard begins."""


class Documents(Protocol):
    """What the sampler reads: numbered documents of known length and source (`TokenDataset` is one)."""

    source_names: list[str]

    @property
    def shards(self) -> Sequence[Shard]:
        """The files, whose documents are numbered one after another."""

    @property
    def lengths(self) -> Integers:
        """[documents] tokens of each document."""

    @property
    def sources(self) -> Integers:
        """[documents] source number of each document."""


@dataclass(frozen=True)
class Spans:
    """Stretches of documents and where they go, one entry each, in the order of the places.

    documents: number of the document. firsts: its first token that is taken. counts: tokens taken. places: where
    they go in the rows, laid end to end. ends: 1 where the stretch reaches the document's end.
    """

    documents: Integers
    firsts: Integers
    counts: Integers
    places: Integers
    ends: Integers

    @classmethod
    def joined(cls, parts: Sequence[Spans]) -> Spans:
        """All of them, by place."""
        columns = ("documents", "firsts", "counts", "places", "ends")
        if len(parts) == 1:
            return parts[0]
        values = [np.concatenate([getattr(part, name) for part in parts]) for name in columns]
        order = np.argsort(values[3], kind="stable")
        return cls(*(column[order] for column in values))

    def in_rows(self, rows: Integers, context_tokens: int) -> Spans:
        """The same with the i-th row's stretches moved to row `rows[i]`."""
        places = rows[self.places // context_tokens] * context_tokens + self.places % context_tokens
        return Spans(self.documents, self.firsts, self.counts, places, self.ends)


@dataclass(frozen=True)
class Reading:
    """A document, by its number within its shard."""

    path: Path
    document: int

    def __str__(self) -> str:
        return f"document {self.document} of '{self.path}'"


class SpanReader:
    """Copies stretches of documents into rows, and can say at any time what it is reading.

    The copying loop is compiled and runs without the interpreter's lock: a page of a memory-mapped file that does not
    come, as on a network disk that hangs, stops the thread that reads and no other.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._firsts = np.concatenate(([0], np.cumsum([len(shard) for shard in shards], dtype=np.int64)))
        self._cursor = np.zeros(1, np.int64)
        self._current: tuple[Path, Integers] | None = None

    def read(self, spans: Spans, rows: int, context_tokens: int) -> tuple[Integers, Integers, Integers]:
        """Tokens, targets and document ids, `[rows, context]` each; what no stretch covers becomes padding."""
        size = rows * context_tokens
        tokens, targets, document_ids = (np.empty(size, np.int64) for _ in range(3))
        indexes = _pad(spans.counts, spans.places, rows, context_tokens, tokens, targets, document_ids)
        shard_of = np.searchsorted(self._firsts, spans.documents, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        borders = np.flatnonzero(np.diff(shard_of[order])) + 1
        for group in np.split(order, borders) if len(order) else ():
            number = int(shard_of[group[0]])
            shard = self._shards[number]
            documents = spans.documents[group] - self._firsts[number]
            self._cursor[0] = 0
            self._current = (shard.path, documents)
            _copy(
                shard.tokens.view(np.ndarray),
                shard.starts(documents) + spans.firsts[group],
                spans.counts[group],
                spans.ends[group],
                spans.places[group],
                indexes[group],
                tokens,
                targets,
                document_ids,
                self._cursor,
            )
        self._current = None
        shape = (rows, context_tokens)
        return tokens.reshape(shape), targets.reshape(shape), document_ids.reshape(shape)

    def reading(self) -> Reading | None:
        """What is being read at this moment. Any thread may ask."""
        current = self._current
        if current is None:
            return None
        path, documents = current
        return Reading(path, int(documents[min(int(self._cursor[0]), len(documents) - 1)]))


@compiled
def _pad(
    counts: Integers,
    places: Integers,
    rows: int,
    context_tokens: int,
    tokens: Integers,
    targets: Integers,
    document_ids: Integers,
) -> Integers:
    """Pad the end of each row; return each stretch's number within its row."""
    indexes = np.empty(len(counts), np.int64)
    span = 0
    for row in range(rows):
        end, index = row * context_tokens, 0
        stop = end + context_tokens
        while span < len(counts) and places[span] < stop:
            indexes[span] = index
            end += counts[span]
            index += 1
            span += 1
        for place in range(end, stop):
            tokens[place] = PADDING_TOKEN
            targets[place] = NO_TARGET
            document_ids[place] = index
    return indexes


@compiled
def _copy(
    source: npt.NDArray[Any],
    starts: Integers,
    counts: Integers,
    ends: Integers,
    places: Integers,
    indexes: Integers,
    tokens: Integers,
    targets: Integers,
    document_ids: Integers,
    cursor: Integers,
) -> None:
    for span in range(len(starts)):
        cursor[0] = span
        start, place, count, index = starts[span], places[span], counts[span], indexes[span]
        # One loop an array, over views that begin at 0: only so does the compiler make vector instructions of them.
        taken = source[start : start + count]
        own_tokens, own_targets = tokens[place : place + count], targets[place : place + count]
        own_ids = document_ids[place : place + count]
        for offset in range(count):
            own_tokens[offset] = taken[offset]
        for offset in range(count - 1):
            own_targets[offset] = taken[offset + 1]
        for offset in range(count):
            own_ids[offset] = index
        # The token after a stretch that ends within its document is the document's next one.
        own_targets[count - 1] = NO_TARGET if ends[span] else source[start + count]
