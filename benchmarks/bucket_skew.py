"""How evenly deduplication's work is spread: LSH buckets and key partitions on real documents, as the corpus grows.

    python benchmarks/bucket_skew.py [MEGABYTES]

A bucket is what shares one band key; a partition is one range of keys that one worker sorts. Figures
for the plan of a large corpus (docs/scale_out.md): how large the largest bucket gets, how many
documents sit in large ones, and how much more than the mean the fullest partition holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.corpus import load_corpus
from tasks.deduplication.sketch import SketchSettings, band_keys, content_hashes
from tasks.text import TextBatch

SETTINGS = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
SMALL_BUCKET = 64


@dataclass(frozen=True)
class Skew:
    """documents: after exact duplicates; pairs: candidate pairs per document; the rest as printed."""

    documents: int
    largest: int
    in_large: float
    pairs: float


def skew_of(keys: npt.NDArray[np.uint64]) -> Skew:
    """Figures over all bands of [documents, bands] keys."""
    largest, in_large, pairs = 0, np.zeros(len(keys), np.bool_), 0
    for band in range(keys.shape[1]):
        _, place, sizes = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        largest = max(largest, int(sizes.max()))
        in_large |= sizes[place] > SMALL_BUCKET
        capped = np.minimum(sizes, SMALL_BUCKET).astype(np.int64)
        pairs += int((capped * (capped - 1) // 2).sum())
    return Skew(len(keys), largest, float(in_large.mean()), pairs / len(keys))


def partition_excess(keys: npt.NDArray[np.uint64], partitions: int) -> float:
    """Entries of the fullest of `partitions` equal ranges of the 64-bit keys, over the mean."""
    counts = np.bincount((keys.ravel() >> np.uint64(32)).astype(np.int64) * partitions >> 32, minlength=partitions)
    return float(counts.max() / counts.mean())


def main() -> None:
    """Print one line per corpus size, then the balance of partitions."""
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 220.0
    batch = TextBatch.from_arrow(load_corpus(megabytes).column("text"))
    content = content_hashes(batch)
    _, first = np.unique(content, axis=0, return_index=True)
    rows = np.sort(first)
    keys = band_keys(batch, SETTINGS)[rows]
    print(f"{len(batch)} documents, {len(rows)} after exact duplicates; 25 bands of 5; buckets over all bands")
    print(f"{'documents':>10} {'largest bucket':>15} {'in buckets > 64':>16} {'pairs / document':>17}")
    for share in (0.125, 0.25, 0.5, 1.0):
        skew = skew_of(keys[: int(share * len(keys))])
        print(f"{skew.documents:10d} {skew.largest:15d} {skew.in_large:16.2%} {skew.pairs:17.2f}")
    for partitions in (16, 256, 4096):
        print(f"{partitions:5d} key partitions: fullest holds {partition_excess(keys, partitions):.2f} x the mean")


if __name__ == "__main__":
    main()
