"""The rows of a curriculum stage: a pure function of (seed, data order, row), so that resuming needs only the row.

A global batch is a run of consecutive row numbers, the same for any number of ranks; each rank takes a slice
(`BatchPlan`). Which group of documents a row comes from is drawn by exact rounds (`Mixture`); a group is a source, or
all sources together, and where `LongDocuments` asks for it, the long documents of that and the others apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from infra.errors import ConfigurationError
from tasks.training.data_order.batch import Batch
from tasks.training.data_order.long_documents import LongDocuments
from tasks.training.data_order.mixture import MIXTURE_ROUND_ROWS, Mixture
from tasks.training.data_order.packing import PackedRows
from tasks.training.data_order.random_order import Numbers, number_type
from tasks.training.data_order.spans import Documents, Reading, SpanReader, Spans
from tasks.training.data_order.streams import RowSource, SourceStream

Integers = npt.NDArray[np.int64]
Packing = Literal["stream", "best_fit"]
Kind = Literal["all", "long", "short"]

_ROW_SOURCES: dict[Packing, type[SourceStream] | type[PackedRows]] = {"stream": SourceStream, "best_fit": PackedRows}


@dataclass(frozen=True)
class GroupStatistics:
    """What one group of documents gives to the rows.

    source: its name, or empty for all sources together. kind: its long documents, its others ("short"), or all.
    rows_share: share of the rows. padded_share: share of its rows' places that hold no token.
    """

    source: str
    kind: Kind
    documents: int
    tokens: int
    rows_share: float
    padded_share: float

    def epochs(self, rows: int, context_tokens: int) -> float:
        """How often each of its tokens is seen in so many rows of the run."""
        return rows * self.rows_share * context_tokens * (1 - self.padded_share) / self.tokens

    def as_row(self, rows: int, context_tokens: int) -> dict[str, Any]:
        """A line of a table for people, about so many rows of the run."""
        return {
            "source": self.source or "all",
            "documents": self.kind,
            "number": self.documents,
            "tokens": self.tokens,
            "share of rows": round(self.rows_share, 4),
            "epochs": round(self.epochs(rows, context_tokens), 3),
            "padding": round(self.padded_share, 6),
        }


@dataclass(frozen=True)
class _Group:
    source: str
    kind: Kind
    numbers: Numbers
    weight: float
    key: str


class Sampler:
    """The training rows of one data order."""

    def __init__(
        self,
        documents: Documents,
        *,
        context_tokens: int,
        seed: int,
        stage: str,
        mixture: Mapping[str, float] | None = None,
        long_documents: LongDocuments | None = None,
        packing: Packing = "stream",
    ) -> None:
        """Rows of all documents in natural proportion, or by `mixture` (source name -> weight).

        `stage` is the name of the data order: that of the stage that began it.

        Raises ConfigurationError when `mixture` names a source that the data does not have, when a source holds no
        tokens, and when one without long documents is to give rows of them.
        """
        self.context_tokens = context_tokens
        key = f"{seed}/{stage}/{context_tokens}"
        groups = _sources(documents, mixture, key)
        if long_documents is not None:
            groups = [part for group in groups for part in _by_length(group, documents, long_documents, context_tokens)]
        self._groups = groups
        make = _ROW_SOURCES[packing]
        self._row_sources: list[RowSource] = [
            make(group.numbers, _lengths_of(documents, group), context_tokens, group.key) for group in groups
        ]
        simple = mixture is None and len(groups) == 1
        self._mixture = None if simple else Mixture([group.weight for group in groups], key)
        self._reader = SpanReader(documents.shards)

    @property
    def epoch_tokens(self) -> int:
        """Tokens of the data that rows are drawn from, each counted once."""
        return sum(source.epoch_tokens for source in self._row_sources)

    def statistics(self) -> list[GroupStatistics]:
        """What each group of documents gives to the rows."""
        counts = [MIXTURE_ROUND_ROWS] if self._mixture is None else self._mixture.counts.tolist()
        return [
            GroupStatistics(
                source=group.source,
                kind=group.kind,
                documents=rows.document_count,
                tokens=rows.epoch_tokens,
                rows_share=count / MIXTURE_ROUND_ROWS,
                padded_share=rows.padded_share,
            )
            for group, rows, count in zip(self._groups, self._row_sources, counts, strict=True)
        ]

    def table(self, rows: int) -> list[dict[str, Any]]:
        """The statistics as a table for people, about so many rows of the run; plain data."""
        return [one.as_row(rows, self.context_tokens) for one in self.statistics()]

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows [first_row, first_row + rows) of the run."""
        parts = [
            source.spans(numbers) if len(here) == rows else source.spans(numbers).in_rows(here, self.context_tokens)
            for source, here, numbers in self._located(first_row, rows)
        ]
        arrays = self._reader.read(Spans.joined(parts), rows, self.context_tokens)
        return Batch(*map(torch.from_numpy, arrays))

    def target_count(self, first_row: int, rows: int) -> int:
        """Targets in those rows, without reading a token: what a global mean divides by, known to every rank."""
        return sum(source.target_count(numbers) for source, _, numbers in self._located(first_row, rows))

    def reading(self) -> Reading | None:
        """Shard file and document that are being read at this moment. Any thread may ask."""
        return self._reader.reading()

    def _located(self, first_row: int, rows: int) -> list[tuple[RowSource, Integers, Integers]]:
        """The rows by where they come from: (source, which of the rows, their numbers within the source)."""
        if self._mixture is None:
            numbers = np.arange(first_row, first_row + rows, dtype=np.int64)
            return [(self._row_sources[0], np.arange(rows), numbers)]
        groups, numbers = self._mixture.locate(first_row, rows)
        places = {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
        return [(self._row_sources[group], here, numbers[here]) for group, here in places.items()]


def _sources(documents: Documents, mixture: Mapping[str, float] | None, key: str) -> list[_Group]:
    lengths = documents.lengths
    kind = number_type(len(lengths))
    if mixture is None:
        groups = [_Group("", "all", np.flatnonzero(lengths > 0).astype(kind), 1.0, key)]
    else:
        groups = [
            _Group(name, "all", _documents_of(documents, name).astype(kind), mixture[name], f"{key}/{name}")
            for name in sorted(name for name, weight in mixture.items() if weight > 0)
        ]
    for group in groups:
        if not len(group.numbers):
            raise ConfigurationError(
                f"the training data of '{group.key}' holds no tokens.", "check the tokens artifact and `mixture`."
            )
    return groups


def _documents_of(documents: Documents, source: str) -> Integers:
    """Those that hold tokens."""
    if source not in documents.source_names:
        raise ConfigurationError(
            f"mixture names the source '{source}', which the tokens artifact does not have.",
            f"use any of: {', '.join(documents.source_names)}.",
        )
    here = documents.sources == documents.source_names.index(source)
    return np.flatnonzero(here & (documents.lengths > 0)).astype(np.int64)


def _by_length(group: _Group, documents: Documents, long: LongDocuments, context_tokens: int) -> list[_Group]:
    """The group's long documents and its others, with its weight divided; one of them where only one is needed."""
    lengths = documents.lengths[group.numbers]
    minimum = long.threshold(context_tokens)
    is_long = lengths >= minimum
    if not is_long.any():
        if long.when_missing == "any":
            return [group]
        of = f"source '{group.source}'" if group.source else "the training data"
        raise ConfigurationError(
            f"{of} has no document of {minimum:,} tokens or more (the longest has {int(lengths.max()):,}), "
            "which long_documents asks for.",
            "lower long_documents.minimum_tokens, set long_documents.when_missing to any, or leave long_documents out.",
        )
    parts: list[tuple[Kind, npt.NDArray[np.bool_], float]] = [("long", is_long, long.share)]
    if long.share < 1 and not is_long.all():
        parts.append(("short", ~is_long, 1 - long.share))
    whole = sum(share for _, _, share in parts)
    return [
        _Group(group.source, kind, group.numbers[chosen], group.weight * share / whole, f"{group.key}/{kind}")
        for kind, chosen, share in parts
    ]


def _lengths_of(documents: Documents, group: _Group) -> Numbers:
    return documents.lengths[group.numbers].astype(np.int32)
