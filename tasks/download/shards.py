"""Records to shards: what becomes a document, what is set aside and why, and where one shard ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from tasks.documents import DOCUMENT_SCHEMA, REMOVED_SCHEMA, document_ids
from tasks.download.decontamination import EvaluationIndex
from tasks.download.formats.record import RECORD_SCHEMA
from tasks.text.batch import TextBatch

CONTAMINATED = "shares a run of words with an evaluation item"
EMPTY = "empty"
NUL_BYTES = "contains NUL bytes"
DUPLICATE_ID = "same text from the same place twice"
#: What a row counts towards a shard beside its text, so that a million empty records do not become one shard.
_ROW_BYTES = 64
_BLANK_PREFIX_BYTES = 16


@dataclass(frozen=True)
class SortedShard:
    """A shard's documents and what was set aside.

    Records with nothing to keep (no text) stand in `removed` as one row a reason, whose score is their number.
    """

    documents: pa.Table
    removed: pa.Table
    statistics: dict[str, object]


def cut_shards(batches: Iterator[pa.RecordBatch], shard_bytes: int, maximum_bytes: int | None) -> Iterator[pa.Table]:
    """Records in tables of about `shard_bytes`, up to the record that reaches `maximum_bytes` of text.

    Where a table ends depends on the records alone, not on how they come in batches.
    """
    held: list[pa.RecordBatch] = []
    weight = total = 0
    for batch in batches:
        while batch.num_rows:
            sizes = TextBatch.from_arrow(batch.column("text")).sizes
            weights = np.cumsum(sizes + _ROW_BYTES)
            stop = int(np.searchsorted(weights, shard_bytes - weight)) + 1
            last = False
            if maximum_bytes is not None:
                cap = int(np.searchsorted(np.cumsum(sizes), maximum_bytes - total)) + 1
                last, stop = cap <= min(stop, batch.num_rows), min(stop, cap)
            taken = batch.slice(0, stop)
            held.append(taken)
            total += int(sizes[:stop].sum())
            if last or stop <= batch.num_rows:
                yield pa.Table.from_batches(held, RECORD_SCHEMA)
                held, weight = [], 0
                if last:
                    return
            else:
                weight += int(weights[-1])
            batch = batch.slice(stop)
    if held:
        yield pa.Table.from_batches(held, RECORD_SCHEMA)


def sort_out(records: pa.Table, source: str, licence: str, index: EvaluationIndex) -> SortedShard:
    """Split records into documents and removals."""
    columns = {name: _one_array(records.column(name)) for name in RECORD_SCHEMA.names}
    texts, origins = columns["text"], columns["origin"]
    reasons, scores = _reasons(texts, columns["defect"]), columns["figure"].to_numpy().copy()
    ids = document_ids(source, origins, texts)
    _mark_repeated(ids, reasons, scores)
    licences = pc.fill_null(columns["licence"], licence)
    table = pa.table([ids, texts, pa.repeat(source, len(ids)), origins, licences], schema=DOCUMENT_SCHEMA)
    candidates = np.flatnonzero(_is_unset(reasons))
    clean = texts if len(candidates) == len(texts) else texts.take(pa.array(candidates))
    shared = index.shared(TextBatch.from_arrow(clean))
    contaminated = shared.counts > 0
    reasons[candidates[contaminated]] = CONTAMINATED
    scores[candidates[contaminated]] = shared.counts[contaminated]
    chosen = candidates[~contaminated]
    documents = table if len(chosen) == len(texts) else table.take(pa.array(chosen))
    statistics = {
        "kept": documents.num_rows,
        "kept_bytes": int(TextBatch.from_arrow(documents.column("text")).sizes.sum()),
        "removed": dict(sorted(Counter(reason for reason in reasons if reason is not None).items())),
        "contaminated_by_set": shared.texts_by_set(),
    }
    return SortedShard(documents, _removed(table, reasons, scores), statistics)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _reasons(texts: pa.Array, defects: pa.Array) -> npt.NDArray[np.object_]:
    """[records] why a record cannot become a document, None where it can."""
    reasons: npt.NDArray[np.object_] = np.full(len(texts), None, np.object_)
    batch = TextBatch.from_arrow(texts)
    nul = np.flatnonzero(batch.buffer == 0)
    reasons[np.unique(np.searchsorted(batch.offsets, nul, side="right") - 1)] = NUL_BYTES
    reasons[_blank(texts)] = EMPTY
    defective = np.flatnonzero(defects.is_valid().to_numpy(zero_copy_only=False))
    if len(defective):
        reasons[defective] = defects.take(pa.array(defective)).to_numpy(zero_copy_only=False)
    return reasons


def _is_unset(reasons: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    return np.fromiter((reason is None for reason in reasons), np.bool_, len(reasons))


def _blank(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Rows whose text is white space only. Nearly all are decided by their first characters."""
    begin = pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(texts, 0, _BLANK_PREFIX_BYTES))
    candidates = np.flatnonzero(pc.equal(begin, "").to_numpy(zero_copy_only=False))
    long = pc.greater(pc.binary_length(texts.take(pa.array(candidates))), _BLANK_PREFIX_BYTES)
    undecided = candidates[long.to_numpy(zero_copy_only=False)]
    filled = [row for row in undecided if texts[row].as_py().strip()]
    return np.setdiff1d(candidates, np.array(filled, np.int64))


def _mark_repeated(ids: pa.Array, reasons: npt.NDArray[np.object_], scores: npt.NDArray[np.float64]) -> None:
    """An id names one document: the same text from the same place is taken once (in a shard; further
    ones are exact duplicates, which the deduplication stage removes)."""
    encoded = ids.dictionary_encode()
    if len(encoded.dictionary) == len(ids):
        return
    codes = encoded.indices.to_numpy()
    first = np.zeros(len(encoded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    for row in np.flatnonzero(first[codes] != np.arange(len(codes))):
        if reasons[row] is None:
            reasons[row], scores[row] = DUPLICATE_ID, 0.0


def _removed(table: pa.Table, reasons: npt.NDArray[np.object_], scores: npt.NDArray[np.float64]) -> pa.Table:
    rows = np.flatnonzero(~_is_unset(reasons))
    nothing = (TextBatch.from_arrow(table.column("text")).sizes[rows] == 0) | (reasons[rows] == EMPTY)
    kept, scores = list(rows[~nothing]), scores.copy()
    for reason in sorted(set(reasons[rows[nothing]])):
        group = rows[nothing][reasons[rows[nothing]] == reason]
        scores[group[0]] = len(group)
        kept.append(group[0])
    chosen = np.sort(np.array(kept, np.int64))
    removed = table.take(pa.array(chosen))
    return pa.table(
        [*removed.columns, pa.array(list(reasons[chosen]), pa.string()), pa.array(scores[chosen])],
        schema=REMOVED_SCHEMA,
    )
