"""The held-out documents an evaluation reads, and the windows a model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.evaluation.token_bytes import TokenBytes

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Documents laid end to end, without separators."""

    tokens: npt.NDArray[np.integer]  # [total]
    lengths: IntArray  # [documents]

    @property
    def starts(self) -> IntArray:
        """Where each document begins in `tokens`."""
        starts: IntArray = np.cumsum(self.lengths) - self.lengths
        return starts

    def document(self, index: int) -> IntArray:
        """One document's tokens."""
        start = int(self.starts[index])
        return self.tokens[start : start + int(self.lengths[index])].astype(np.int64)

    def take(self, indices: Sequence[int], longest: int | None = None) -> Corpus:
        """Some documents, in the given order, each cut to `longest` tokens."""
        documents = [self.document(index)[:longest] for index in indices]
        tokens = np.concatenate(documents) if documents else np.zeros(0, np.int64)
        return Corpus(tokens, np.array([len(document) for document in documents], np.int64))

    def to_bytes(self, table: TokenBytes) -> tuple[npt.NDArray[np.uint8], IntArray]:
        """The documents' text as bytes, end to end, and each document's length in bytes."""
        sizes = np.concatenate([[0], np.cumsum(table.lengths[self.tokens])])
        bounds = np.concatenate([[0], np.cumsum(self.lengths)])
        return table.expand(self.tokens), np.diff(sizes[bounds])


def choose_documents(corpus: Corpus, total_tokens: int, document_tokens: int, seed: int) -> Corpus:
    """A random choice of documents, the same for the same seed, of at most `total_tokens`.

    Documents are cut to `document_tokens`, the last one to what remains: no length is favoured.
    """
    order = np.random.default_rng(seed).permutation(len(corpus.lengths))
    lengths = np.minimum(corpus.lengths[order], document_tokens)
    used = np.cumsum(lengths) - lengths
    chosen = corpus.take([int(index) for index in order[used < total_tokens]], document_tokens)
    lengths = chosen.lengths.copy()
    excess = max(0, int(lengths.sum()) - total_tokens)
    lengths[-1:] -= excess
    return Corpus(chosen.tokens[: len(chosen.tokens) - excess], lengths)


@dataclass(frozen=True)
class Window:
    """A row of tokens for the model; the first `unscored` predictions only repeat context."""

    row: IntArray
    unscored: int


def windows_of(document: IntArray, separator: int, context: int, overlap: int) -> list[Window]:
    """The document after its separator, in windows of at most `context` inputs.

    Every token of the document is scored exactly once, the first one given the separator alone;
    each window after the first starts with `overlap` tokens that only give context.
    """
    row = np.concatenate([[separator], document])
    windows = []
    target = 1
    while target < len(row):
        start = 0 if target == 1 else target - 1 - overlap
        windows.append(Window(row[start : start + context + 1], target - 1 - start))
        target = start + context + 1
    return windows
