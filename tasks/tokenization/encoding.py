"""One document shard to token shards: read in batches, encode, check, pack; a few megabytes at a time.

Every document is decoded again and compared with its text. Documents spread evenly over the shard, and the probe
texts, are encoded by the reference too; when an id differs the whole shard is encoded again by the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.errors import ArtifactCorrupted, PipelineError
from tasks.documents import read_table
from tasks.sharded_work import UnitOutput
from tasks.text import TextBatch
from tasks.tokenization.engines import Engine, EngineFailed, Engines, Ids, open_engines, require_equal_ids
from tasks.tokenization.token_shards import TokenShardWriter, open_token_shard, shard_files, token_dtype

SPLITS = ("train", "validation")
#: Text that is read, encoded and written at a time (a longer document stands alone).
_BATCH_BYTES = 8 << 20
_MOST_ROWS = 1 << 14
#: A longer sampled document is compared on a part of this size: the reference encodes 2 MB a second.
_COMPARED_BYTES = 2 << 10

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodeUnit:
    """One document shard to encode. Documents hashing below `validation_below` are held out."""

    documents: Path
    directory: Path
    number: int
    tokenizer: Path
    end_of_text: str
    source_names: tuple[str, ...]
    validation_below: int
    self_check_documents: int


@dataclass(frozen=True)
class _ShardRows:
    """What is known of a shard before its texts are read. held_out, sources: [documents]."""

    held_out: npt.NDArray[np.bool_]
    sources: npt.NDArray[np.int32]

    @classmethod
    def of(cls, unit: EncodeUnit) -> _ShardRows:
        table = read_table(unit.documents, ["id", "source"])
        hashes = document_hashes(table.column("id"))
        # `below` may be 2**64, which no uint64 holds.
        last = np.uint64(max(unit.validation_below - 1, 0))
        held_out = (hashes <= last) & (unit.validation_below > 0)
        numbers = pc.index_in(table.column("source"), value_set=pa.array(unit.source_names, pa.string()))
        return cls(held_out, np.asarray(numbers.combine_chunks(), np.int32))

    def of_split(self, split: str) -> npt.NDArray[np.bool_]:
        return self.held_out if split == "validation" else ~self.held_out


@dataclass
class _Progress:
    """What encoding a shard has found. altered: documents that the tokenizer's normaliser changes."""

    lengths: list[npt.NDArray[np.int64]] = field(default_factory=list)
    sizes: list[npt.NDArray[np.int64]] = field(default_factory=list)
    altered: int = 0
    compared: int = 0


def document_hash(identity: str) -> int:
    """64 bits that decide a document's split and whether the tokenizer is trained on it."""
    return xxhash.xxh3_64_intdigest(identity.encode())


def document_hashes(identities: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.uint64]:
    """[documents] `document_hash` of a column of ids."""
    column = identities.cast(pa.binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, column), np.uint64, len(column))


def encode_shard(unit: EncodeUnit) -> UnitOutput:
    """Encode one document shard into a train and a validation shard (empty ones are not written).

    Raises PipelineError when a tokenizer without normalisation does not give a document back.
    """
    engines = open_engines(unit.tokenizer, unit.end_of_text)
    rows = _ShardRows.of(unit)
    difference = engines.refusal
    if engines.fast is not None:
        try:
            return _encode(unit, rows, engines.fast, engines)
        except EngineFailed as error:
            difference = str(error)
    return _encode(unit, rows, engines.reference, engines, difference)


def _encode(unit: EncodeUnit, rows: _ShardRows, engine: Engine, engines: Engines, difference: str = "") -> UnitOutput:
    progress = _Progress()
    files: list[Path] = []
    with ExitStack() as stack:
        writers: dict[str, TokenShardWriter] = {}
        for split in SPLITS:
            if rows.of_split(split).any():
                prefix = unit.directory / f"{split}-{unit.number:05d}"
                writers[split] = stack.enter_context(
                    open_token_shard(prefix, token_dtype(engines.loaded.vocabulary_size))
                )
                files += shard_files(prefix)
        sampled = _spread(len(rows.sources), unit.self_check_documents)
        for start, batch in text_batches(unit.documents):
            documents = engine.encode(batch)
            _check(unit, engine, engines, batch, documents, sampled - start, progress)
            for split, writer in writers.items():
                _append(writer, rows, split, start, batch, documents, engines.loaded.end_of_text)
            progress.lengths.append(np.array([len(ids) + 1 for ids in documents], np.int64))
            progress.sizes.append(batch.sizes)
        if engine is engines.fast:
            require_equal_ids(engine, engines.reference, TextBatch.from_texts(engines.probes))
    statistics = {split: _split_figures(unit, rows, split, progress) for split in SPLITS}
    encoding = {"engine": engine.name, "altered": progress.altered, "compared": progress.compared}
    return UnitOutput(tuple(files), {**statistics, "encoding": {**encoding, "difference": difference}})


def _append(
    writer: TokenShardWriter,
    rows: _ShardRows,
    split: str,
    start: int,
    batch: TextBatch,
    documents: Sequence[Ids],
    end: int,
) -> None:
    stop = start + len(batch)
    chosen = np.flatnonzero(rows.of_split(split)[start:stop])
    writer.append(
        [documents[row] for row in chosen.tolist()], rows.sources[start:stop][chosen], batch.sizes[chosen], end
    )


def text_batches(path: Path) -> Iterator[tuple[int, TextBatch]]:
    """A document shard's texts in parts of some megabytes, each with its first row.

    Raises ArtifactCorrupted naming the file when it cannot be read or its text is not UTF-8.
    """
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
            rows = max(1, min(_MOST_ROWS, _BATCH_BYTES * file.metadata.num_rows // max(size, 1)))
            for part in file.iter_batches(batch_size=rows, columns=["text"], use_threads=False):
                column = part.column(0)
                column.validate(full=True)
                yield start, TextBatch.from_arrow(column)
                start += len(column)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactCorrupted(
            f"document shard '{path}' cannot be read: {error}.",
            "delete its artifact's directory and run again; it is rebuilt from its inputs.",
        ) from error


def _spread(count: int, wanted: int) -> Rows:
    """At most `wanted` of `count` rows, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(np.int64))


def _check(
    unit: EncodeUnit,
    engine: Engine,
    engines: Engines,
    batch: TextBatch,
    documents: Sequence[Ids],
    sampled: Rows,
    progress: _Progress,
) -> None:
    """Decode every document; have the reference encode the sampled ones (rows of this batch, others are ignored)."""
    bounds = batch.offsets.tolist()
    for row, ids in enumerate(documents):
        if engine.decode(ids) != batch.buffer[bounds[row] : bounds[row + 1]].tobytes():
            _require_normaliser(unit, engine, engines, batch.text(row))
            progress.altered += 1
    if engine is not engines.reference:
        chosen = sampled[(sampled >= 0) & (sampled < len(batch))]
        short = chosen[batch.sizes[chosen] <= _COMPARED_BYTES]
        _require_reference_ids([documents[row] for row in short.tolist()], engine, engines, batch.take(short))
        parts = [_part_of(batch.text(row)) for row in np.setdiff1d(chosen, short).tolist()]
        require_equal_ids(engine, engines.reference, TextBatch.from_texts(parts))
        progress.compared += len(chosen)


def _require_normaliser(unit: EncodeUnit, engine: Engine, engines: Engines, text: str) -> None:
    """A text that does not come back is the tokenizer's own doing only when it normalises.

    Raises EngineFailed for the fast engine, which the reference then replaces; PipelineError for the reference.
    """
    if engines.loaded.tokenizer.normalizer is not None:
        return
    if engine is not engines.reference:
        raise EngineFailed(f"{engine.name} does not give back {text[:60]!r}")
    raise PipelineError(
        f"tokenizer '{unit.tokenizer}' does not give back a document of '{unit.documents}' that begins {text[:60]!r}.",
        "use a byte-level tokenizer without normalisation.",
    )


def _require_reference_ids(documents: Sequence[Ids], engine: Engine, engines: Engines, texts: TextBatch) -> None:
    for row, (ours, theirs) in enumerate(zip(documents, engines.reference.encode(texts), strict=True)):
        if not np.array_equal(ours, theirs):
            raise EngineFailed(f"{engine.name} encodes {texts.text(row)[:60]!r} unlike {engines.reference.name}")


def _part_of(text: str) -> str:
    """The middle of a long text."""
    start = len(text) // 2
    return text[start : start + _COMPARED_BYTES]


def _split_figures(unit: EncodeUnit, rows: _ShardRows, split: str, progress: _Progress) -> dict[str, dict[str, int]]:
    chosen = rows.of_split(split)
    sources = rows.sources[chosen]
    values: dict[str, Any] = {
        "tokens": np.concatenate([*progress.lengths, np.zeros(0, np.int64)])[chosen],
        "bytes": np.concatenate([*progress.sizes, np.zeros(0, np.int64)])[chosen],
        "documents": np.ones(len(sources), np.int64),
    }
    figures: dict[str, dict[str, int]] = {}
    for name, value in values.items():
        sums = np.zeros(len(unit.source_names), np.int64)
        np.add.at(sums, sources, value)
        figures[name] = {unit.source_names[number]: int(sums[number]) for number in np.unique(sources)}
    return figures
