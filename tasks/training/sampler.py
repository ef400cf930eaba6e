"""Data order as a pure function of (seed, stage, step): seekable, so that resuming needs only the step.

Of each source, the documents are laid out one after another in an order drawn anew for every epoch, and this
endless stream of tokens is cut into rows of `context_tokens`. No token is skipped, padded or used twice within
an epoch. A document that crosses the end of a row goes on in another row, where attention and states start
afresh; a row that crosses the end of an epoch goes on with the next. The rows of an epoch are drawn in random
order, so that the pieces of one long document do not fill one batch.

A global batch is a run of consecutive row numbers, the same for any number of ranks; each rank takes a slice.
Random numbers are Philox's raw output (stable across numpy versions) and become orders by a stable sort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from infra.errors import ConfigurationError

Integers = npt.NDArray[np.int64]

#: Rows of one round of the mixture; weights are kept to one part in this many.
MIXTURE_ROUND_ROWS = 1024
_NO_TARGET = -100


class Documents(Protocol):
    """What the sampler reads: numbered documents of known length and source (`TokenDataset` is one)."""

    source_names: list[str]

    @property
    def lengths(self) -> Integers:
        """[documents] tokens of each document."""

    @property
    def sources(self) -> Integers:
        """[documents] source number of each document."""

    def document(self, number: int) -> npt.NDArray[np.integer[Any]]:
        """Token ids of one document."""


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass, all `[rows, context]` int64.

    targets[:, t] is the token after tokens[:, t], or -100 where that is another document's first token.
    document_ids count the documents within a row from 0.
    """

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor

    @property
    def target_count(self) -> int:
        """Tokens that the loss is averaged over."""
        return int((self.targets >= 0).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        moved = (part.pin_memory().to(device, non_blocking=True) for part in self._parts())
        return Batch(*moved)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens, self.targets, self.document_ids


def random_order(count: int, *key: object) -> Integers:
    """A permutation of `count` numbers that depends on `key` alone."""
    digest = xxhash.xxh3_128_intdigest("\x1f".join(map(str, key)).encode())
    keys = np.random.Philox(key=digest).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int64)


class SourceStream:
    """The endless stream of one source's documents, cut into rows."""

    def __init__(self, documents: Documents, numbers: Integers, context_tokens: int, key: str) -> None:
        """`numbers` are the source's documents; `key` names the random orders."""
        lengths = documents.lengths[numbers]
        self._documents = documents
        self._numbers = numbers[lengths > 0]
        self._lengths = lengths[lengths > 0]
        self._context = context_tokens
        self._key = key
        self.epoch_tokens = int(self._lengths.sum())
        if self.epoch_tokens == 0:
            raise ConfigurationError(
                f"the training data of '{key}' holds no tokens.", "check the tokens artifact and `mixture`."
            )
        # Per instance, so that the arrays are freed with the stream. Two, for rows that cross epochs.
        self._layout = lru_cache(maxsize=2)(self._lay_out)
        self._row_order = lru_cache(maxsize=2)(self._order_rows)

    def row_start(self, number: int) -> int:
        """Position in the endless stream at which the `number`-th drawn row begins."""
        epoch = number * self._context // self.epoch_tokens
        first = self._first_row(epoch)
        return (first + int(self._row_order(epoch)[number - first])) * self._context

    def spans(self, start: int, count: int) -> list[tuple[int, int, int]]:
        """What lies in stream positions [start, start + count): (document number, first token, tokens) each."""
        spans = []
        while count > 0:
            epoch, offset = divmod(start, self.epoch_tokens)
            order, ends = self._layout(epoch)
            place = int(np.searchsorted(ends, offset, side="right"))
            length = int(self._lengths[order[place]])
            first = offset - (int(ends[place]) - length)
            taken = min(count, length - first)
            spans.append((int(self._numbers[order[place]]), first, taken))
            start, count = start + taken, count - taken
        return spans

    def target_count(self, start: int) -> int:
        """Targets of the row at `start`: its tokens, less those that close a document."""
        return self._context - self._document_ends(start, start + self._context)

    def row(self, start: int) -> tuple[Integers, Integers, Integers]:
        """Tokens, targets and document ids, `[context]` each, of the row at stream position `start`."""
        tokens = np.empty(self._context, np.int64)
        targets = np.empty(self._context, np.int64)
        document_ids = np.empty(self._context, np.int64)
        place = 0
        for index, (number, first, count) in enumerate(self.spans(start, self._context)):
            document = self._documents.document(number)
            here = slice(place, place + count)
            following = document[first + 1 : first + 1 + count]
            tokens[here] = document[first : first + count]
            targets[here] = _NO_TARGET
            targets[place : place + len(following)] = following
            document_ids[here] = index
            place += count
        return tokens, targets, document_ids

    def _document_ends(self, start: int, stop: int) -> int:
        """How many documents end within stream positions (start, stop]."""
        return self._ends_before(stop) - self._ends_before(start)

    def _ends_before(self, position: int) -> int:
        epoch, offset = divmod(position, self.epoch_tokens)
        within = int(np.searchsorted(self._layout(epoch)[1], offset, side="right"))
        return epoch * len(self._numbers) + within

    def _first_row(self, epoch: int) -> int:
        """The first row that begins in `epoch`."""
        return -(-epoch * self.epoch_tokens // self._context)

    def _order_rows(self, epoch: int) -> Integers:
        count = self._first_row(epoch + 1) - self._first_row(epoch)
        return random_order(count, self._key, "rows", epoch)

    def _lay_out(self, epoch: int) -> tuple[Integers, Integers]:
        """Order of the documents in `epoch`, and where each ends, in tokens from the epoch's start."""
        order = random_order(len(self._numbers), self._key, "documents", epoch)
        return order, np.cumsum(self._lengths[order])


class Mixture:
    """Which source each row of the run comes from, in rounds of `MIXTURE_ROUND_ROWS` rows.

    Every round holds each source's exact share, in an order drawn anew; so the number of a source's rows before
    any row is known without counting.
    """

    def __init__(self, weights: Sequence[float], key: str) -> None:
        self._counts = _apportion(weights, MIXTURE_ROUND_ROWS)
        self._key = key
        self._round = lru_cache(maxsize=2)(self._draw)

    def locate(self, row: int) -> tuple[int, int]:
        """(source, number of the row within the source) of row `row` of the run."""
        round_number, place = divmod(row, MIXTURE_ROUND_ROWS)
        sources, ranks = self._round(round_number)
        source = int(sources[place])
        return source, round_number * int(self._counts[source]) + int(ranks[place])

    def _draw(self, round_number: int) -> tuple[Integers, Integers]:
        """Source of each row of a round, and how many rows of that source the round has before it."""
        ordered = np.repeat(np.arange(len(self._counts)), self._counts)
        sources = ordered[random_order(MIXTURE_ROUND_ROWS, self._key, "mixture", round_number)]
        ranks = np.empty_like(sources)
        for source, count in enumerate(self._counts):
            ranks[sources == source] = np.arange(count)
        return sources, ranks


def _apportion(weights: Sequence[float], total: int) -> Integers:
    """Whole numbers that sum to `total` in proportion to `weights` (largest remainders)."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return counts


class Sampler:
    """The training rows of one curriculum stage."""

    def __init__(
        self,
        documents: Documents,
        *,
        context_tokens: int,
        seed: int,
        stage: str,
        mixture: Mapping[str, float] | None = None,
    ) -> None:
        """Rows of all documents in natural proportion, or by `mixture` (source name -> weight).

        Raises ConfigurationError when `mixture` names a source that the data does not have.
        """
        self.context_tokens = context_tokens
        key = f"{seed}/{stage}/{context_tokens}"
        if mixture is None:
            everything = np.arange(len(documents.lengths), dtype=np.int64)
            self._streams = [SourceStream(documents, everything, context_tokens, key)]
            self._mixture = None
            return
        names = sorted(name for name, weight in mixture.items() if weight > 0)
        self._streams = [
            SourceStream(documents, _documents_of(documents, name), context_tokens, f"{key}/{name}") for name in names
        ]
        self._mixture = Mixture([mixture[name] for name in names], key)

    @property
    def epoch_tokens(self) -> int:
        """Tokens of the data that rows are drawn from, each counted once."""
        return sum(stream.epoch_tokens for stream in self._streams)

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows [first_row, first_row + rows) of the run."""
        parts = [stream.row(start) for stream, start in map(self._locate, range(first_row, first_row + rows))]
        tokens, targets, document_ids = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return Batch(tokens, targets, document_ids)

    def target_count(self, first_row: int, rows: int) -> int:
        """Targets in those rows, without reading a token: what a global mean divides by, known to every rank."""
        located = map(self._locate, range(first_row, first_row + rows))
        return sum(stream.target_count(start) for stream, start in located)

    def _locate(self, row: int) -> tuple[SourceStream, int]:
        source, number = (0, row) if self._mixture is None else self._mixture.locate(row)
        stream = self._streams[source]
        return stream, stream.row_start(number)


def _documents_of(documents: Documents, source: str) -> Integers:
    if source not in documents.source_names:
        raise ConfigurationError(
            f"mixture names the source '{source}', which the tokens artifact does not have.",
            f"use any of: {', '.join(documents.source_names)}.",
        )
    return np.flatnonzero(documents.sources == documents.source_names.index(source)).astype(np.int64)


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of a global batch are dealt to ranks and micro-batches."""

    rows_per_step: int
    micro_batch: int
    ranks: int

    @property
    def accumulation(self) -> int:
        """Micro-batches a rank runs for one update."""
        return self.rows_per_step // (self.micro_batch * self.ranks)

    def first_row(self, step: int, micro_step: int, rank: int) -> int:
        """The first of the `micro_batch` rows that `rank` runs as micro-batch `micro_step` of update `step`."""
        return step * self.rows_per_step + (micro_step * self.ranks + rank) * self.micro_batch
