"""Results item by item, so that two evaluations can be compared in pairs: `items.parquet`.

A metric is sum(values) / sum(weights) over its items: of an accuracy, 0 or 1 and weight 1; of bits per
byte, a document's bits and its bytes. Items are known by a hash of their own text, so that two
evaluations pair up whatever the order and subset of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from infra.errors import ArtifactCorrupted
from infra.storage.local import atomic_file

ITEMS_FILE = "items.parquet"
Floats = npt.NDArray[np.float64]

_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("higher_is_better", pa.bool_(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)
_REBUILD = "delete the artifact's directory and run the pipeline again: it is rebuilt."


@dataclass(frozen=True)
class ItemScores:
    """One metric of one task, item by item. Raises ValueError when the parts do not fit together."""

    task: str
    metric: str
    higher_is_better: bool
    items: tuple[str, ...]  # keys of `item_key`
    values: Floats  # [items]
    weights: Floats  # [items], above 0

    def __post_init__(self) -> None:
        if not self.task or not self.metric:
            raise ValueError("item scores need the names of their task and metric")
        shape = (len(self.items),)
        if self.values.shape != shape or self.weights.shape != shape:
            raise ValueError(
                f"{self.name}: {len(self.items)} items, values {self.values.shape}, weights {self.weights.shape}"
            )
        if not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise ValueError(f"{self.name}: a weight is not a number above 0")

    @property
    def name(self) -> str:
        """`task/metric`."""
        return f"{self.task}/{self.metric}"

    @property
    def score(self) -> float:
        """The metric over all items; not a number when there is none."""
        return float(self.values.sum() / self.weights.sum()) if self.items else float("nan")


def item_key(*texts: str) -> str:
    """16 hex digits that stand for an item: of all its texts, in order, and of where each one ends."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def write_items(path: Path, scores: Sequence[ItemScores]) -> None:
    """Write all metrics into one Parquet file; the same scores give the same bytes.

    Raises ValueError when a task's metric is given twice.
    """
    names = [one.name for one in scores]
    if len(set(names)) != len(names):
        raise ValueError(f"a metric is given twice: {', '.join(names)}")
    with atomic_file(path) as stream, _writer(stream) as writer:
        for one in scores:
            writer.write_table(_table(one))


def read_items(path: Path) -> list[ItemScores]:
    """What `write_items` wrote, in its order.

    Raises FileNotFoundError, and ArtifactCorrupted naming the file for one that is damaged or another kind of file.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = [name for name in _SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise ArtifactCorrupted(f"items file '{path}' has no column {', '.join(missing)}.", _REBUILD)
            table = file.read(columns=_SCHEMA.names).cast(_SCHEMA)
        return _scores(table)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactCorrupted(f"items file '{path}' cannot be read: {reason}.", _REBUILD) from error


def _writer(stream: BinaryIO) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        stream, _SCHEMA, compression="zstd", use_dictionary=["task", "metric"], write_page_checksum=True
    )


def _table(scores: ItemScores) -> pa.Table:
    count = len(scores.items)
    columns = [
        pa.repeat(pa.scalar(scores.task), count),
        pa.repeat(pa.scalar(scores.metric), count),
        pa.repeat(pa.scalar(scores.higher_is_better), count),
        pa.array(scores.items, pa.string()),
        pa.array(scores.values, pa.float64()),
        pa.array(scores.weights, pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _scores(table: pa.Table) -> list[ItemScores]:
    """Split the rows where the task, the metric or its direction changes."""
    tasks, metrics, directions = (table.column(name).to_pylist() for name in _SCHEMA.names[:3])
    heads = list(zip(tasks, metrics, directions, strict=True))
    starts = [index for index, (before, after) in enumerate(pairwise(heads), 1) if before != after]
    borders = [0, *starts, len(heads)] if heads else []
    items = table.column("item").to_pylist()
    values, weights = (table.column(name).to_numpy() for name in ("value", "weight"))
    found = [
        ItemScores(
            tasks[start], metrics[start], directions[start], tuple(items[start:end]), values[start:end],
            weights[start:end],
        )
        for start, end in pairwise(borders)
    ]  # fmt: skip
    if len({one.name for one in found}) != len(found):
        raise ValueError("the rows of a metric are not together")
    return found
