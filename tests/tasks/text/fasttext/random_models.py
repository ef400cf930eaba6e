"""Small models of every kind, with random numbers in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tasks.text.fasttext.format import Arguments, DenseMatrix, Loss, Matrix, ModelFile, QuantizedMatrix

WORDS = [b"</s>", b"the", b"a", "é".encode(), "日本".encode(), b"word", b"<b>", b"ab", b"caf\xc3\xa9"]
DEFAULT = Arguments(dimension=5, loss=Loss.SOFTMAX)


def quantized(generator: np.random.Generator, rows: int, columns: int, width: int, norms: bool) -> QuantizedMatrix:
    widths = [min(width, columns - start) for start in range(0, columns, width)]
    centroids = tuple(generator.normal(size=(256, size)).astype(np.float32) for size in widths)
    codes = generator.integers(0, 256, (rows, len(widths)), dtype=np.uint8)
    if not norms:
        return QuantizedMatrix(codes, centroids)
    norm_codes = generator.integers(0, 256, rows, dtype=np.uint8)
    return QuantizedMatrix(codes, centroids, norm_codes, generator.random(256, dtype=np.float32))


def random_model(
    seed: int = 0,
    labels: int = 4,
    words: list[bytes] = WORDS,
    is_quantized: bool = False,
    norms: bool = False,
    kept_buckets: int | None = None,
    **arguments: object,
) -> ModelFile:
    """A model file's content; `kept_buckets` prunes (quantized models only)."""
    generator = np.random.default_rng(seed)
    chosen = replace(DEFAULT, **arguments)  # type: ignore[arg-type]
    buckets = chosen.buckets if kept_buckets is None else kept_buckets
    rows = len(words) + buckets
    pruned = None
    if kept_buckets is not None:
        kept = generator.permutation(chosen.buckets)[:kept_buckets]
        pruned = np.stack([kept, generator.permutation(kept_buckets)], axis=1).astype(np.int32)
    inputs: Matrix
    outputs: Matrix
    if is_quantized:
        inputs = quantized(generator, rows, chosen.dimension, 2, norms)
        outputs = quantized(generator, labels, chosen.dimension, 2, norms)
    else:
        inputs = DenseMatrix(generator.normal(size=(rows, chosen.dimension)).astype(np.float32))
        outputs = DenseMatrix(generator.normal(size=(labels, chosen.dimension)).astype(np.float32))
    counts = sorted(generator.integers(1, 1000, labels).tolist(), reverse=True)
    return ModelFile(
        chosen,
        words,
        [1] * len(words),
        [f"__label__{chr(ord('a') + index)}" for index in range(labels)],
        counts,
        1000,
        pruned,
        inputs,
        outputs,
    )
