"""What a model must beat: unigram and 5-gram models of the training split, on the same held-out text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.evaluation.held_out import Corpus
from tasks.evaluation.ngram import NgramModel
from tasks.evaluation.perplexity import bits_per_byte
from tasks.evaluation.token_bytes import TokenBytes

_BYTE_VALUES = 256
#: Four symbols of context.
_ORDER = 5


def measure_baselines(
    training: Corpus, held_out: Corpus, table: TokenBytes, vocabulary_size: int, training_bytes_limit: int
) -> dict[str, Any]:
    """Bits per byte of each baseline, estimated from the training documents (up to the limit).

    All four see a document from its beginning and predict the same text as the model; the token
    models use its tokens, so their figure, like the model's, counts one tokenization only.
    """
    used = _within(training, table, training_bytes_limit)
    training_text, held_out_text = used.to_bytes(table), held_out.to_bytes(table)
    size = len(held_out_text[0])
    return {
        "unigram_bits_per_byte": _score(training_text, held_out_text, 1, _BYTE_VALUES, size),
        "5gram_bits_per_byte": _score(training_text, held_out_text, _ORDER, _BYTE_VALUES, size),
        "token_unigram_bits_per_byte": _score(_pair(used), _pair(held_out), 1, vocabulary_size, size),
        "token_5gram_bits_per_byte": _score(_pair(used), _pair(held_out), _ORDER, vocabulary_size, size),
        "smoothing": "interpolated modified Kneser-Ney",
        "training_documents": len(used.lengths),
        "training_tokens": len(used.tokens),
        "training_bytes": len(training_text[0]),
        "whole_training_split": len(used.lengths) == len(training.lengths),
    }


_Documents = tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]


def _score(training: _Documents, held_out: _Documents, order: int, vocabulary_size: int, text_bytes: int) -> float:
    model = NgramModel.fit(*training, order=order, vocabulary_size=vocabulary_size)
    return bits_per_byte(-math.fsum(model.log_probabilities(*held_out)), text_bytes)


def _pair(corpus: Corpus) -> _Documents:
    return corpus.tokens, corpus.lengths


def _within(corpus: Corpus, table: TokenBytes, limit: int) -> Corpus:
    """The first documents that together have at most `limit` bytes, and at least one."""
    ends = np.cumsum(corpus.lengths)
    sizes = np.cumsum(table.lengths[corpus.tokens])[ends - 1]
    count = max(1, int(np.searchsorted(sizes, limit, side="right")))
    return Corpus(corpus.tokens[: int(ends[count - 1])], corpus.lengths[:count])
