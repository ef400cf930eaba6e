"""Exact duplicates over all shards and sources, from 28 bytes a document.

The copy that is kept has the smallest hash of its id, so it is the same document however the corpus
is cut into shards. Hashes are sorted within a shard's file; a round looks at one range of the hashes
of all shards, so memory stays under half a gigabyte whatever the number of documents.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.errors import ArtifactCorrupted
from infra.storage.local import atomic_file
from tasks.text.batch import Positions, TextBatch

#: Hash of a document's text (two halves), hash of its id, row in its shard.
HASH_TYPE = np.dtype([("first", "<u8"), ("second", "<u8"), ("id", "<u8"), ("row", "<u4")])
COPY_TYPE = np.dtype([("row", "<u4"), ("copies", "<u4")])
Hashed = npt.NDArray[np.void]

_DOCUMENTS_PER_ROUND = 1 << 22


def hash_documents(texts: TextBatch, ids: pa.ChunkedArray, rows: Positions) -> Hashed:
    """Hashes of the documents at `rows` (XXH3, 128 bits of the text), sorted."""
    found = np.zeros(len(rows), HASH_TYPE)
    content = _digests(texts, rows, xxhash.xxh3_128_digest).view("<u8").reshape(-1, 2)
    found["first"], found["second"] = content[:, 0], content[:, 1]
    found["id"] = _digests(TextBatch.from_arrow(ids), rows, xxhash.xxh3_64_digest).view("<u8")
    found["row"] = rows
    return found[np.lexsort((found["row"], found["id"], found["second"], found["first"]))]


def _digests(batch: TextBatch, rows: Positions, digest: Callable[[memoryview], bytes]) -> npt.NDArray[np.uint8]:
    view = batch.buffer.data
    starts, ends = batch.offsets[rows].tolist(), batch.offsets[rows + 1].tolist()
    parts = [digest(view[start:end]) for start, end in zip(starts, ends, strict=True)]
    return np.frombuffer(b"".join(parts), np.uint8)


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array atomically, as numpy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with atomic_file(path) as stream:
        stream.write(buffer.getvalue())


def load_array(path: Path, expected: np.dtype[np.void]) -> Hashed:
    """Map an array into memory; raises ArtifactCorrupted naming a file that is not one of that type."""
    try:
        array: Hashed = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactCorrupted(
            f"scratch file '{path}' cannot be read: {error}.", "delete it and run again."
        ) from error
    if array.dtype != expected:
        raise ArtifactCorrupted(f"scratch file '{path}' holds {array.dtype}.", "delete it and run again.")
    return array


def find_duplicates(hashes: Mapping[str, Path]) -> dict[str, Hashed]:
    """Shard -> rows to remove and how many copies each text has (`COPY_TYPE`), in row order."""
    shards = [load_array(path, HASH_TYPE) for path in hashes.values()]
    removed: list[list[Hashed]] = [[] for _ in shards]
    documents = sum(len(shard) for shard in shards)
    rounds = -(-documents // _DOCUMENTS_PER_ROUND) or 1
    edges = [number * (1 << 64) // rounds for number in range(rounds + 1)]
    for low, high in pairwise(edges):
        _find_in_range(shards, low, high, removed)
    result = {}
    for name, parts in zip(hashes, removed, strict=True):
        rows = np.concatenate([np.zeros(0, COPY_TYPE), *parts])
        result[name] = rows[np.argsort(rows["row"])]
    return result


def _find_in_range(shards: Sequence[Hashed], low: int, high: int, removed: list[list[Hashed]]) -> None:
    """Add the duplicates whose text's hash begins in [low, high) to each shard's list."""
    slices, owners = [], []
    for number, shard in enumerate(shards):
        start = np.searchsorted(shard["first"], np.uint64(low))
        stop = len(shard) if high > np.iinfo(np.uint64).max else np.searchsorted(shard["first"], np.uint64(high))
        slices.append(np.asarray(shard[start:stop]))
        owners.append(np.full(stop - start, number, np.int64))
    found, owner = np.concatenate(slices), np.concatenate(owners)
    if not len(found):
        return
    order = np.lexsort((found["row"], owner, found["id"], found["second"], found["first"]))
    found, owner = found[order], owner[order]
    same = (found["first"][1:] == found["first"][:-1]) & (found["second"][1:] == found["second"][:-1])
    group = np.concatenate(([0], np.cumsum(~same)))
    copies = np.bincount(group)[group]
    again = np.flatnonzero(np.concatenate(([False], same)))
    for number in np.unique(owner[again]):
        chosen = again[owner[again] == number]
        rows = np.zeros(len(chosen), COPY_TYPE)
        rows["row"], rows["copies"] = found["row"][chosen], copies[chosen]
        removed[number].append(rows)
