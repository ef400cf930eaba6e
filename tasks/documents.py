"""The document format between the data stages: Parquet shards of texts, and of what was removed.

Every stage reads `documents/*.parquet` of the stage before it and writes `documents/` and
`removed/` itself. A removed document keeps its text, with the reason and the score that decided,
so nothing is dropped in silence. Shards are named by the data they cover (`<source>-00000`), keep
their name from stage to stage, and are byte for byte the same whoever writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.artifacts import Artifact, StageContext
from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.errors import ArtifactCorrupted, ConfigurationError
from infra.storage.local import atomic_file
from tasks.text.batch import TextBatch

DOCUMENTS = "documents"
REMOVED = "removed"
PLOTS = "plots"
SCRATCH = SCRATCH_DIRECTORY

DOCUMENT_FIELDS = [
    ("id", pa.string()),
    ("text", pa.string()),
    ("source", pa.string()),
    ("origin", pa.string()),
    ("licence", pa.string()),
]
REMOVAL_FIELDS = [("reason", pa.string()), ("score", pa.float64())]
DOCUMENT_SCHEMA = pa.schema(DOCUMENT_FIELDS)
REMOVED_SCHEMA = pa.schema(DOCUMENT_FIELDS + REMOVAL_FIELDS)

#: Level 3 saves 13% of the size at half the speed, and each stage writes the text anew.
_COMPRESSION_LEVEL = 1
_REPEATED_COLUMNS = ("source", "licence", "reason")
_ROWS_PER_GROUP = 4096


@dataclass(frozen=True)
class Document:
    """One text with where it came from. `origin` is the path or address within its source."""

    text: str
    source: str
    origin: str
    licence: str

    @property
    def id(self) -> str:
        """Stable identity: the same text from the same place has the same id on every machine."""
        parts = [part.encode("utf-8", "surrogatepass") for part in (self.source, self.origin, self.text)]
        return xxhash.xxh3_128_hexdigest(b"".join(_counted(part) for part in parts))


@dataclass(frozen=True)
class Removal:
    """A document taken out of the flow, why, and the figure that decided."""

    document: Document
    reason: str
    score: float


def document_ids(source: str, origins: pa.Array, texts: pa.Array) -> pa.Array:
    """`Document.id` of many documents of one source, without an object a document."""
    columns = [
        pa.scalar(_counted(source.encode("utf-8", "surrogatepass")), pa.large_binary()),
        _lengths(origins),
        origins.cast(pa.large_binary()),
        _lengths(texts),
        texts.cast(pa.large_binary()),
    ]
    joined = pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.large_binary()))
    batch = TextBatch.from_arrow(joined)
    view, places = memoryview(batch.buffer.data), batch.offsets.tolist()
    hexdigest = xxhash.xxh3_128_hexdigest
    ids = [hexdigest(view[start:stop]) for start, stop in pairwise(places)]
    return pa.array(ids, pa.string())


def _lengths(column: pa.Array) -> pa.Array:
    lengths = TextBatch.from_arrow(column).sizes.astype("<i8")
    offsets = 8 * np.arange(len(lengths) + 1, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(lengths)]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers)


def _counted(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def documents_table(documents: Sequence[Document]) -> pa.Table:
    """Documents as the table a shard holds."""
    columns = {
        "id": [document.id for document in documents],
        "text": [document.text for document in documents],
        "source": [document.source for document in documents],
        "origin": [document.origin for document in documents],
        "licence": [document.licence for document in documents],
    }
    return pa.table(columns, schema=DOCUMENT_SCHEMA)


def removals_table(removals: Sequence[Removal]) -> pa.Table:
    """Removed documents as the table a shard holds."""
    table = documents_table([removal.document for removal in removals])
    table = table.append_column("reason", pa.array([removal.reason for removal in removals], pa.string()))
    return table.append_column("score", pa.array([removal.score for removal in removals], pa.float64()))


def write_table(path: Path, table: pa.Table) -> None:
    """Write one shard atomically, with fixed settings so that equal tables are equal files."""
    with atomic_file(path) as stream:
        pq.write_table(
            table.combine_chunks(),
            stream,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            row_group_size=_ROWS_PER_GROUP,
            use_dictionary=[name for name in _REPEATED_COLUMNS if name in table.column_names],
            write_statistics=False,  # nobody selects row groups by their texts' order
            version="2.6",
            store_schema=False,
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one shard; raises ArtifactCorrupted naming the file when it is not a readable shard."""
    try:
        # ParquetFile, not read_table: the latter imports pandas, a second of start-up in every worker.
        with pq.ParquetFile(path) as file:
            return file.read(columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactCorrupted(
            f"document shard '{path}' cannot be read: {error}.",
            "delete its artifact's directory and run again; it is rebuilt from its inputs.",
        ) from error


def document_shards(artifact: Artifact) -> dict[str, Path]:
    """The artifact's document shards by name, in name order."""
    return {path.stem: path for path in artifact.paths(f"{DOCUMENTS}/", ".parquet")}


def iterate_texts(artifact: Artifact) -> Iterator[str]:
    """Every document's text, in shard order."""
    for path in document_shards(artifact).values():
        yield from read_table(path, ["text"]).column("text").to_pylist()


def only_input(context: StageContext[Any]) -> Artifact:
    """The one artifact a data stage works on; raises ConfigurationError for any other number."""
    inputs = list(context.inputs.values())
    if len(inputs) != 1:
        raise ConfigurationError(
            f"a data stage takes one input artifact, not {len(inputs)} ({sorted(context.inputs)}).",
            "pass the artifact of the stage before it.",
        )
    return inputs[0]


def carried_statistics(artifact: Artifact) -> Mapping[str, object]:
    """Figures that every later stage hands on (what was decontaminated, which sources were missing)."""
    carried = artifact.manifest.statistics.get("carried", {})
    return carried if isinstance(carried, Mapping) else {}
