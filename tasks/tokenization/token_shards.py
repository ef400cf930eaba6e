"""Token shards on disk: Megatron's indexed dataset layout, readable by other trainers, memory-mapped here.

`NAME.bin` holds the token ids of all documents one after another (little-endian uint16, or int32 for
vocabularies over 65,536: the layout has no uint32). `NAME.idx` holds, little-endian: the magic
`MMIDIDX\\0\\0`, version (uint64, 1), type code (uint8), number of sequences (uint64), number of
document boundaries (uint64), lengths in tokens (int32 each), byte offsets (int64 each), boundaries
(int64 each). Every document is one sequence here and ends with the end-of-text token. Beside them,
`NAME.sources.npy` (source number of each document) and `NAME.bytes.npy` (bytes of UTF-8 text of each).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from infra.artifacts import Artifact
from infra.errors import ArtifactCorrupted, ConfigurationError
from infra.storage.local import atomic_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
SOURCES_FILE = "sources.json"
_HEADER = struct.Struct("<9sQBQQ")
_TYPE_CODES: dict[int, np.dtype[Any]] = {8: np.dtype("<u2"), 4: np.dtype("<i4")}
_LARGEST_UINT16_VOCABULARY = 1 << 16

TokenIds = npt.NDArray[np.integer[Any]]


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The smallest of the layout's types that holds every id."""
    return _TYPE_CODES[8] if vocabulary_size <= _LARGEST_UINT16_VOCABULARY else _TYPE_CODES[4]


@dataclass(frozen=True)
class ShardIndex:
    """The content of an `.idx` file. lengths: [documents] tokens; offsets: [documents] bytes into `.bin`."""

    dtype: np.dtype[Any]
    lengths: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of_lengths(cls, lengths: npt.NDArray[np.int32], dtype: np.dtype[Any]) -> ShardIndex:
        """The index of documents stored one after another."""
        offsets = np.zeros(len(lengths), np.int64)
        np.cumsum(lengths[:-1].astype(np.int64) * dtype.itemsize, out=offsets[1:])
        return cls(dtype, lengths.astype(np.int32), offsets)

    def encode(self) -> bytes:
        """The bytes of the `.idx` file."""
        code = next(code for code, dtype in _TYPE_CODES.items() if dtype == self.dtype)
        count = len(self.lengths)
        header = _HEADER.pack(MAGIC, VERSION, code, count, count + 1)
        boundaries = np.arange(count + 1, dtype="<i8")
        return (
            header + self.lengths.astype("<i4").tobytes() + self.offsets.astype("<i8").tobytes() + boundaries.tobytes()
        )


def decode_index(data: bytes, path: Path) -> ShardIndex:
    """Parse the bytes of an `.idx` file; raises ArtifactCorrupted naming `path`."""
    if len(data) < _HEADER.size:
        raise _corrupted(path, "is shorter than its header")
    magic, version, code, count, boundaries = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _corrupted(path, "does not begin with Megatron's magic bytes")
    if version != VERSION:
        raise _corrupted(path, f"is of version {version}, not {VERSION}")
    if code not in _TYPE_CODES:
        raise _corrupted(path, f"has the unknown type code {code}")
    if len(data) != _HEADER.size + 12 * count + 8 * boundaries:
        raise _corrupted(path, f"has {len(data)} bytes, which does not fit its {count} documents")
    lengths = np.frombuffer(data, "<i4", count, _HEADER.size)
    offsets = np.frombuffer(data, "<i8", count, _HEADER.size + 4 * count)
    index = ShardIndex.of_lengths(lengths, _TYPE_CODES[code])
    if (lengths < 0).any() or not np.array_equal(index.offsets, offsets):
        raise _corrupted(path, "has offsets that do not follow from its lengths")
    return index


def _corrupted(path: Path, what: str) -> ArtifactCorrupted:
    return ArtifactCorrupted(
        f"token shard file '{path}' {what}.", "delete its artifact's directory and run again; it is rebuilt."
    )


class TokenShardWriter:
    """Appends documents to a shard's `.bin` as they come; only their lengths stay in memory."""

    def __init__(self, stream: BinaryIO, dtype: np.dtype[Any]) -> None:
        self._stream = stream
        self.dtype = dtype
        self.lengths: list[npt.NDArray[np.int64]] = []
        self.sources: list[npt.NDArray[np.int32]] = []
        self.document_bytes: list[npt.NDArray[np.int64]] = []

    def append(
        self,
        documents: Sequence[npt.NDArray[Any]],
        source_numbers: npt.NDArray[Any],
        document_bytes: npt.NDArray[Any],
        end: int | None = None,
    ) -> None:
        """Add documents of token ids ([tokens] each), each closed with token `end`; ids must fit the shard's type."""
        closing = np.array([] if end is None else [end], self.dtype)
        parts = [part for ids in documents for part in (ids, closing)]
        if parts:
            self._stream.write(np.concatenate(parts).astype(self.dtype, copy=False).data)
        self.lengths.append(np.array([len(ids) + len(closing) for ids in documents], np.int64))
        self.sources.append(source_numbers.astype(np.int32))
        self.document_bytes.append(document_bytes.astype(np.int64))


@contextmanager
def open_token_shard(prefix: Path, dtype: np.dtype[Any]) -> Iterator[TokenShardWriter]:
    """Write the four files of a shard (see `shard_files`); nothing stays when the block ends with an exception."""
    bin_path, index_path, sources_path, bytes_path = shard_files(prefix)
    with atomic_file(bin_path) as stream:
        writer = TokenShardWriter(stream, dtype)
        yield writer
    lengths = _joined(writer.lengths, np.int64).astype(np.int32)
    with atomic_file(index_path) as stream:
        stream.write(ShardIndex.of_lengths(lengths, dtype).encode())
    with atomic_file(sources_path) as stream:
        np.save(stream, _joined(writer.sources, np.int32))
    with atomic_file(bytes_path) as stream:
        np.save(stream, _joined(writer.document_bytes, np.int64))


def shard_files(prefix: Path) -> list[Path]:
    """Paths of a shard's files; `prefix` is their path without suffix."""
    return [prefix.with_name(prefix.name + suffix) for suffix in (".bin", ".idx", ".sources.npy", ".bytes.npy")]


def write_token_shard(
    prefix: Path,
    documents: Sequence[Sequence[int]],
    source_numbers: Sequence[int],
    document_bytes: Sequence[int],
    dtype: np.dtype[Any],
) -> list[Path]:
    """Write a shard of documents that are already lists of ids; return its files' paths."""
    with open_token_shard(prefix, dtype) as writer:
        arrays = [np.array(ids, dtype) for ids in documents]
        writer.append(arrays, np.array(source_numbers, np.int32), np.array(document_bytes, np.int64))
    return shard_files(prefix)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[Any]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


class TokenShard:
    """One shard, memory-mapped. Documents include their closing end-of-text token."""

    def __init__(self, prefix: Path) -> None:
        """Open `prefix`.bin/.idx and the sidecars; raises ArtifactCorrupted naming the bad file."""
        self.prefix = prefix
        index_path, self._bin_path = self._file(".idx"), self._file(".bin")
        try:
            self.index = decode_index(index_path.read_bytes(), index_path)
            size = self._bin_path.stat().st_size
        except OSError as error:
            raise _corrupted(Path(error.filename or index_path), "cannot be read") from error
        if size != self.token_count * self.index.dtype.itemsize:
            raise _corrupted(self._bin_path, f"has {size} bytes, not the index's {self.token_count} tokens")

    def __len__(self) -> int:
        return len(self.index.lengths)

    @property
    def token_count(self) -> int:
        """Tokens of all documents, end-of-text tokens included."""
        return int(self.index.lengths.sum(dtype=np.int64))

    @property
    def path(self) -> Path:
        """The file that holds the tokens."""
        return self._bin_path

    @cached_property
    def tokens(self) -> TokenIds:
        """All tokens of the shard, one after another (memory-mapped)."""
        if not self.token_count:
            return np.zeros(0, self.index.dtype)
        return np.memmap(self._bin_path, self.index.dtype, "r")

    @cached_property
    def sources(self) -> npt.NDArray[np.int32]:
        """[documents] source numbers (places in the artifact's sources.json)."""
        values: npt.NDArray[np.int32] = self._sidecar(".sources.npy")
        return values

    @cached_property
    def document_bytes(self) -> npt.NDArray[np.int64]:
        """[documents] bytes of UTF-8 text, for bits per byte."""
        values: npt.NDArray[np.int64] = self._sidecar(".bytes.npy")
        return values

    def document(self, number: int) -> TokenIds:
        """Token ids of one document (a view); raises IndexError outside the shard."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)} in '{self.prefix}'")
        start = int(self.index.offsets[number]) // self.index.dtype.itemsize
        return self.tokens[start : start + int(self.index.lengths[number])]

    def starts(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in `tokens` each of these documents begins."""
        starts: npt.NDArray[np.int64] = self.index.offsets[numbers] // self.index.dtype.itemsize
        return starts

    def _file(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    def _sidecar(self, suffix: str) -> Any:
        path = self._file(suffix)
        try:
            values = np.load(path)
        except (OSError, ValueError) as error:
            raise _corrupted(path, "cannot be read") from error
        if values.shape != (len(self),):
            raise _corrupted(path, f"holds {values.shape} values for {len(self)} documents")
        return values


class TokenDataset:
    """All shards of one split as one numbered sequence of documents."""

    def __init__(self, shards: Iterable[TokenShard], source_names: Sequence[str]) -> None:
        self.shards = list(shards)
        self.source_names = list(source_names)
        self._first = np.concatenate(([0], np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)))

    @classmethod
    def open(cls, artifact: Artifact, split: str) -> TokenDataset:
        """Open the `train` or `validation` split of a tokens artifact.

        Raises ConfigurationError when the artifact has no such split, ArtifactCorrupted for bad files.
        """
        prefixes = [path.with_suffix("") for path in artifact.paths(f"{split}-", ".idx")]
        if not prefixes:
            raise ConfigurationError(
                f"artifact '{artifact.uri}' has no split '{split}'.", "use `train` or `validation`."
            )
        names = orjson.loads(artifact.path(SOURCES_FILE).read_bytes())
        return cls([TokenShard(prefix) for prefix in prefixes], names)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def token_count(self) -> int:
        """Tokens of all documents, end-of-text tokens included."""
        return sum(shard.token_count for shard in self.shards)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[documents] tokens of each document."""
        return self._joined([shard.index.lengths.astype(np.int64) for shard in self.shards])

    @cached_property
    def sources(self) -> npt.NDArray[np.int64]:
        """[documents] source number of each document (places in `source_names`)."""
        return self._joined([shard.sources.astype(np.int64) for shard in self.shards])

    @cached_property
    def document_bytes(self) -> npt.NDArray[np.int64]:
        """[documents] bytes of UTF-8 text of each document."""
        return self._joined([shard.document_bytes for shard in self.shards])

    def document(self, number: int) -> TokenIds:
        """Token ids of one document, end-of-text included; raises IndexError outside the dataset."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.shards[shard].document(number - int(self._first[shard]))

    def shard_spans(self) -> list[tuple[int, int]]:
        """First and one-past-last document number of each shard."""
        return [(int(a), int(b)) for a, b in pairwise(self._first)]

    @staticmethod
    def _joined(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)
