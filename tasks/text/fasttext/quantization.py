"""Small models: product quantization of the vectors (Jégou et al. 2011; fastText.zip, Joulin et al. 2016)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tasks.text.fasttext.format import CENTROIDS, Floats, ModelFile, QuantizedMatrix
from tasks.text.fasttext.tables import index_features

_PART_NUMBERS = 2
_SAMPLE_ROWS = 1 << 14
_ROUNDS = 15
_BLOCK_ROWS = 1 << 14


def quantize(model: ModelFile) -> ModelFile:
    """The same model with one byte per two numbers and row, and without the buckets whose vectors are zero.

    A dropped bucket's n-grams no longer count in a text's mean, so probabilities change a little: judge
    the quantized model, not the one it was made from. Label vectors stay as they are.
    """
    values, words = model.inputs.dense(), len(model.words)
    buckets = np.zeros(0, np.int64)
    if index_features(model.arguments, model.words).buckets:
        buckets = np.flatnonzero(values[words:].any(axis=1))
    rows = np.concatenate((values[:words], values[words + buckets]))
    norms = np.sqrt(np.add.accumulate(rows.astype(np.float64) ** 2, axis=1)[:, -1]).astype(np.float32)
    directions = (rows / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]).astype(np.float32)
    parts = [_cluster(directions[:, start : start + _PART_NUMBERS]) for start in range(0, rows.shape[1], _PART_NUMBERS)]
    norm_codes, norm_centroids = _cluster(norms[:, None])
    codes = np.stack([codes for codes, _ in parts], axis=1)
    pruned = np.stack((buckets, np.arange(len(buckets))), axis=1).astype(np.int32)
    inputs = QuantizedMatrix(codes, tuple(centroids for _, centroids in parts), norm_codes, norm_centroids.ravel())
    return replace(model, inputs=inputs, pruned=pruned)


def _cluster(points: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Nearest of 256 centroids for each point ([points, width]), by Lloyd's algorithm.

    Points begin at evenly spaced ranks, single numbers at evenly spaced values: the few long vectors
    are the words that decide, and must not share the centroid of the many short ones.
    """
    in_order = points[np.lexsort(points.T[::-1])]
    sample = in_order[:: max(1, len(points) // _SAMPLE_ROWS)]
    centroids = sample[np.linspace(0, len(sample) - 1, CENTROIDS).astype(np.int64)].copy()
    if points.shape[1] == 1:
        centroids = np.linspace(in_order[0], in_order[-1], CENTROIDS, dtype=np.float32)
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centroids)
        counts = np.bincount(nearest, minlength=CENTROIDS)
        for column in range(points.shape[1]):
            sums = np.bincount(nearest, sample[:, column].astype(np.float64), CENTROIDS)
            moved = sums / np.maximum(counts, 1)
            centroids[:, column] = np.where(counts > 0, moved, centroids[:, column])
    codes = np.empty(len(points), np.uint8)
    for start in range(0, len(points), _BLOCK_ROWS):
        codes[start : start + _BLOCK_ROWS] = _nearest(points[start : start + _BLOCK_ROWS], centroids)
    return codes, centroids


def _nearest(points: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    distances = np.zeros((len(points), CENTROIDS), np.float32)
    for column in range(points.shape[1]):
        distances += (points[:, column, None] - centroids[:, column]) ** 2
    nearest: npt.NDArray[np.int64] = distances.argmin(axis=1)
    return nearest
