"""Training the tokenizer on a sample chosen by document hash, with progress and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
from tokenizers import Tokenizer

from infra.errors import ArtifactCorrupted
from tasks.tokenization.config import TokenizationConfig
from tasks.tokenization.encoding import document_hashes
from tasks.tokenization.tokenizer import train_tokenizer

_POLL_SECONDS = 1.0
_ROWS = 256
#: Merging takes 0.4 to 1.0 times as long as counting words (8 to 128 MB, 4,096 and 32,768 tokens).
_MERGING_SHARE = 0.8


def text_bytes(shards: Mapping[str, Path]) -> int:
    """Bytes of UTF-8 text of all documents, from Arrow's lengths."""
    return sum(pc.sum(pc.binary_length(part.column("text"))).as_py() or 0 for part in _parts(shards, ["text"]))


def training_bound(shards: Mapping[str, Path], hashes: npt.NDArray[np.uint64], sample_bytes: int) -> int:
    """Train on the documents with the highest hashes: never the held-out ones while there are others."""
    share = min(sample_bytes / max(text_bytes(shards), 1), 1.0)
    return int(np.sort(hashes)[int(len(hashes) * (1 - share))]) if share < 1 else 0


def training_texts(shards: Mapping[str, Path], bound: int) -> Iterator[str]:
    """Texts of the documents hashing to `bound` or above, a few at a time in memory."""
    for part in _parts(shards, ["id", "text"]):
        chosen = document_hashes(part.column("id")) >= np.uint64(bound)
        yield from part.column("text").filter(pa.array(chosen)).to_pylist()


def train_on_sample(
    shards: Mapping[str, Path],
    bound: int,
    config: TokenizationConfig,
    report: Callable[[float, str], None],
) -> Tokenizer:
    """Train in a thread of its own while this one reports progress (a share) and the time left.

    An exception from `report` (a cancellation) cuts the sample short and passes at once.
    """
    sample = _Sample(training_texts(shards, bound), config.training_sample_bytes)
    executor = ThreadPoolExecutor(1, thread_name_prefix="train-tokenizer")
    try:
        training = executor.submit(train_tokenizer, sample.texts(), config)
        while not wait([training], _POLL_SECONDS).done:
            report(*sample.progress())
        return training.result()
    finally:
        sample.cancelled = True
        executor.shutdown(wait=False)


class _Sample:
    """The texts on their way into the trainer; `progress` is read by another thread."""

    def __init__(self, texts: Iterator[str], expected_bytes: int) -> None:
        self._texts = texts
        self._expected_bytes = expected_bytes
        self._started = time.monotonic()
        self._fed_bytes = 0
        self._feeding_seconds = 0.0
        self.cancelled = False

    def texts(self) -> Iterator[str]:
        """The texts, counted."""
        for text in self._texts:
            if self.cancelled:
                return
            self._fed_bytes += len(text.encode())
            yield text
        self._feeding_seconds = time.monotonic() - self._started

    def progress(self) -> tuple[float, str]:
        """Share done and what to say about it."""
        seconds = time.monotonic() - self._started
        if self._feeding_seconds:
            total, what = self._feeding_seconds * (1 + _MERGING_SHARE), "merging"
        else:
            share = min(max(self._fed_bytes / self._expected_bytes, 1e-3), 1.0)
            total = seconds / share * (1 + _MERGING_SHARE)
            what = f"{self._fed_bytes / 1e6:.0f} of at most {self._expected_bytes / 1e6:.0f} MB counted"
        left = max(total - seconds, 0.0)
        return min(seconds / total, 0.99), f"training the tokenizer: {what}, about {left:.0f} s left"


def _parts(shards: Mapping[str, Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The shards' rows, some hundreds at a time; raises ArtifactCorrupted naming the file."""
    for path in shards.values():
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_ROWS, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactCorrupted(
                f"document shard '{path}' cannot be read: {error}.",
                "delete its artifact's directory and run again; it is rebuilt from its inputs.",
            ) from error
