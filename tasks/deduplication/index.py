"""The index of a deduplication run: what later runs need to leave out what this one has seen.

`index/<shard>.sketch` is an Arrow file with one row a document, in the order of the stage's input:
`key_00` .. and `row_00` ..: each band's keys in ascending order and whose they are; `content_high`,
`content_low`: hash of the text; `bytes`, `quality`, `id`, `source`. `index/<shard>.states.npy` says of each
document whether it stayed. `index/index.json` has the format's version, the sketch settings and the checksums
of all of these and of the texts, which stay where they are (`documents/`, `removed/`). With 25 bands a document
takes 300 bytes of keys and about 80 others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from infra.errors import ArtifactCorrupted, ConfigurationError
from infra.storage.checksum import checksum_bytes, checksum_file
from infra.storage.local import atomic_file
from tasks.deduplication.arrow_arrays import to_arrow, to_numpy
from tasks.deduplication.sketch import SketchSettings
from tasks.documents import DOCUMENTS, REMOVED
from tasks.text.batch import Positions
from tasks.text.hashing import Hashes

INDEX = "index"
INDEX_FILE = f"{INDEX}/index.json"
#: Raise it when the files change, or what a word, a shingle or a key is.
FORMAT_VERSION = 1


class State(IntEnum):
    """What became of a document, as far as later runs must know."""

    KEPT = 0
    #: Equal to another document of the same run, so that this index can do without it.
    REPEATED = 1
    REMOVED = 2


@dataclass(frozen=True)
class SketchedRows:
    """What a sketch file holds of its documents, in input order. keys: [rows, bands]; content: [rows, 2]."""

    keys: Hashes
    content: Hashes
    sizes: Positions
    quality: npt.NDArray[np.float64]
    ids: pa.Array
    sources: pa.Array

    def write(self, path: Path) -> None:
        """Write the file; each band's keys are sorted on the way."""
        columns: dict[str, pa.Array] = {}
        for band in range(self.keys.shape[1]):
            keys = self.keys[:, band]
            order = np.argsort(keys, kind="stable")
            columns[f"key_{band:02d}"] = to_arrow(keys[order])
            columns[f"row_{band:02d}"] = to_arrow(order.astype(np.uint32))
        columns |= {
            "content_high": to_arrow(self.content[:, 0]),
            "content_low": to_arrow(self.content[:, 1]),
            "bytes": to_arrow(self.sizes),
            "quality": to_arrow(self.quality),
            "id": self.ids,
            "source": self.sources,
        }
        write_arrow(path, [pa.record_batch(list(columns.values()), names=list(columns))])


class SketchFile:
    """A sketch file, mapped into memory: columns are read when they are looked at."""

    def __init__(self, path: Path) -> None:
        self._batch = read_arrow(path)[0]

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def band(self, band: int, low: int, high: int) -> tuple[Hashes, npt.NDArray[np.uint32]]:
        """Keys of one band with low <= key < high, ascending, and whose they are."""
        keys = self._numbers(f"key_{band:02d}")
        bounds = [min(bound, (1 << 64) - 1) for bound in (low, high)]
        start = int(np.searchsorted(keys, np.uint64(bounds[0])))
        stop = len(keys) if high >= 1 << 64 else int(np.searchsorted(keys, np.uint64(bounds[1])))
        return keys[start:stop], self._numbers(f"row_{band:02d}")[start:stop]

    @property
    def content(self) -> Hashes:
        """[rows, 2] content hashes."""
        return np.stack([self._numbers("content_high"), self._numbers("content_low")], axis=1)

    @property
    def content_high(self) -> Hashes:
        """[rows] the upper halves of the content hashes."""
        return self._numbers("content_high")

    @property
    def sizes(self) -> Positions:
        """[rows] bytes of each text."""
        return self._numbers("bytes")

    @property
    def quality(self) -> npt.NDArray[np.float64]:
        """[rows] quality scores."""
        return self._numbers("quality")

    @property
    def ids(self) -> pa.Array:
        """[rows] ids."""
        return self._batch.column("id")

    @property
    def sources(self) -> pa.Array:
        """[rows] sources."""
        return self._batch.column("source")

    def _numbers(self, name: str) -> np.ndarray[Any, Any]:
        return to_numpy(self._batch.column(name))


def write_arrow(path: Path, batches: Sequence[pa.RecordBatch]) -> None:
    """Write record batches (at least one) as an Arrow file, atomically."""
    with atomic_file(path) as stream, pa.ipc.new_file(stream, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_arrow(path: Path) -> list[pa.RecordBatch]:
    """Map an Arrow file's record batches; raises ArtifactCorrupted when it is none."""
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise ArtifactCorrupted(
            f"'{path}' cannot be read: {error}.", "delete its artifact's directory and run again."
        ) from error


@dataclass(frozen=True)
class IndexedShard:
    """One shard of an index: its documents, and the checksums of its files by their path in the artifact."""

    name: str
    rows: int
    files: Mapping[str, str]

    def check(self, directory: Path) -> None:
        """Raise ArtifactCorrupted naming the first file that is missing or not what was indexed."""
        for relative, checksum in self.files.items():
            try:
                intact = checksum_file(directory / relative) == checksum
            except OSError:
                intact = False
            if not intact:
                raise ArtifactCorrupted(
                    f"file '{directory / relative}' of a reference index is missing or changed.",
                    "run the deduplication that made it again, or leave it out of `reference_indexes`.",
                )


@dataclass(frozen=True)
class Index:
    """What `index/index.json` says."""

    settings: Mapping[str, int]
    shards: tuple[IndexedShard, ...]

    def write(self, path: Path) -> None:
        """Write `index.json`."""
        content = {
            "format": FORMAT_VERSION,
            "settings": dict(self.settings),
            "documents": sum(shard.rows for shard in self.shards),
            "shards": [asdict(shard) for shard in self.shards],
        }
        with atomic_file(path) as stream:
            stream.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def index_settings(settings: SketchSettings) -> dict[str, int]:
    """What two indexes must share for their keys to be comparable (unused hash functions do not matter)."""
    return {
        "ngram_words": settings.ngram_words,
        "bands": settings.bands,
        "rows_per_band": settings.rows_per_band,
        "seed": settings.seed,
    }


@dataclass(frozen=True)
class Reference:
    """The index of an earlier run. `directory`: the artifact it is part of."""

    directory: Path
    checksum: str

    @cached_property
    def index(self) -> Index:
        """Its content; raises ConfigurationError when it is no index of this format."""
        content = _read_index(self.directory)
        try:
            document = orjson.loads(content)
            version = document["format"]
            shards = tuple(IndexedShard(**shard) for shard in document["shards"]) if version == FORMAT_VERSION else ()
            settings = dict(document["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"reference_indexes: '{self.directory / INDEX_FILE}' is not a deduplication index ({error!r}).",
                "name the directory of a finished `unique_documents` artifact.",
            ) from error
        if version != FORMAT_VERSION:
            raise ConfigurationError(
                f"reference_indexes: '{self.directory / INDEX_FILE}' has format {version}, not {FORMAT_VERSION}.",
                "run the deduplication that made it again with this version.",
            )
        return Index(settings, shards)

    def check(self, settings: SketchSettings) -> None:
        """Raise ConfigurationError when the index changed since it was pinned or was made with other settings."""
        found = checksum_bytes(_read_index(self.directory))
        if found != self.checksum:
            raise ConfigurationError(
                f"reference_indexes: '{self.directory / INDEX_FILE}' has checksum {found}, not {self.checksum}.",
                "restore it, or remove `reference_checksums` to accept the new one.",
            )
        ours = index_settings(settings)
        different = [
            f"{name} is {self.index.settings.get(name)} there and {value} here"
            for name, value in ours.items()
            if self.index.settings.get(name) != value
        ]
        if different:
            raise ConfigurationError(
                f"reference_indexes: '{self.directory}' was made with other settings ({'; '.join(different)}).",
                "use its settings for this run too, or deduplicate the old documents again with yours.",
            )


def pin_reference(directory: Path, checksum: str) -> Reference:
    """A reference with the checksum its index has now; raises ConfigurationError when a given one does not match."""
    found = checksum_bytes(_read_index(directory))
    if checksum not in ("", found):
        raise ConfigurationError(
            f"reference_indexes: '{directory / INDEX_FILE}' does not match reference_checksums {checksum}.",
            "restore it, or remove `reference_checksums` to accept the new one.",
        )
    return Reference(directory, found)


def _read_index(directory: Path) -> bytes:
    try:
        return (directory / INDEX_FILE).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"reference_indexes: '{directory / INDEX_FILE}' cannot be read: {error.strerror or error}.",
            "name the directory of a finished `unique_documents` artifact.",
        ) from error


def sketch_path(directory: Path, shard: str) -> Path:
    """Where a shard's sketches are."""
    return directory / INDEX / f"{shard}.sketch"


def states_path(directory: Path, shard: str) -> Path:
    """Where it says which of a shard's documents stayed."""
    return directory / INDEX / f"{shard}.states.npy"


def write_states(path: Path, states: npt.NDArray[np.uint8]) -> None:
    """Write a shard's states."""
    with atomic_file(path) as stream:
        np.save(stream, states, allow_pickle=False)


def read_states(path: Path) -> npt.NDArray[np.uint8]:
    """A shard's states; raises ArtifactCorrupted when they cannot be read."""
    try:
        states: npt.NDArray[np.uint8] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupted(
            f"'{path}' cannot be read: {error}.", "delete its artifact's directory and run again."
        ) from error
    return states


def indexed_shard(directory: Path, name: str, rows: int) -> IndexedShard:
    """What the index says of one of this run's shards."""
    paths = [
        sketch_path(directory, name),
        states_path(directory, name),
        directory / DOCUMENTS / f"{name}.parquet",
        directory / REMOVED / f"{name}.parquet",
    ]
    files = {path.relative_to(directory).as_posix(): checksum_file(path) for path in paths if path.exists()}
    return IndexedShard(name, rows, files)
