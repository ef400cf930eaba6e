"""Held-out perplexity, bits per byte, and both by how much context the model could see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.held_out import Corpus, windows_of
from tasks.evaluation.items import ItemScores, item_key
from tasks.evaluation.language_model import FloatArray, IntArray, LanguageModel
from tasks.evaluation.token_bytes import TokenBytes

#: Position buckets start here and double up to the full context.
_FIRST_BUCKET_END = 16


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total nats over a text as bits for each UTF-8 byte of it: comparable between tokenizers."""
    return nats / math.log(2) / text_bytes


@dataclass(frozen=True)
class DocumentScores:
    """Nats of every token of every document, and how many tokens the model saw before it; each [tokens]."""

    nats: list[FloatArray]
    visible: list[IntArray]


def score_documents(model: LanguageModel, corpus: Corpus, separator: int, context: int, overlap: int) -> DocumentScores:
    """Score every token of every document once, the first one given the separator that opens the document.

    The separator itself is never predicted: it is no text.
    """
    windows = [windows_of(corpus.document(index), separator, context, overlap) for index in range(len(corpus.lengths))]
    rows = iter(model.token_nats([window.row for document in windows for window in document]))
    nats = [np.concatenate([next(rows)[window.unscored :] for window in document]) for document in windows]
    visible = [
        np.concatenate([np.arange(window.unscored + 1, len(window.row)) for window in document]) for document in windows
    ]
    assert [len(one) for one in nats] == corpus.lengths.tolist(), "every token is scored exactly once"
    return DocumentScores(nats, visible)


def measure_perplexity(
    model: LanguageModel, corpus: Corpus, text_bytes: int, separator: int, context: int, overlap: int
) -> dict[str, Any]:
    """`score_documents`, summed up; see `perplexity_of`."""
    return perplexity_of(score_documents(model, corpus, separator, context, overlap), text_bytes, context)


def perplexity_of(scores: DocumentScores, text_bytes: int, context: int) -> dict[str, Any]:
    """Totals (`nats`, `tokens`, `bytes`), `loss` (nats a token), `perplexity`, `bits_per_byte`, and `by_position`:
    rows of `from`, `to` (tokens of context visible), `tokens`, `loss`, `perplexity`.
    """
    total = math.fsum(float(nats.sum()) for nats in scores.nats)
    tokens = sum(len(nats) for nats in scores.nats)
    return {
        "documents": len(scores.nats),
        "tokens": tokens,
        "bytes": text_bytes,
        "nats": total,
        "loss": total / tokens,
        "perplexity": math.exp(min(total / tokens, 700.0)),
        "bits_per_byte": bits_per_byte(total, text_bytes),
        "by_position": by_position(np.concatenate(scores.nats), np.concatenate(scores.visible), context),
    }


def document_items(scores: DocumentScores, corpus: Corpus, table: TokenBytes) -> ItemScores:
    """Bits and bytes of each document, known by its text; documents without text are left out."""
    text, sizes = corpus.to_bytes(table)
    ends = np.cumsum(sizes)
    bits = np.array([nats.sum() for nats in scores.nats]) / math.log(2)
    kept = sizes > 0
    keys = tuple(
        item_key(text[end - size : end].tobytes().decode("utf-8", "surrogateescape"))
        for end, size in zip(ends[kept], sizes[kept], strict=True)
    )
    return ItemScores("held-out", "bits_per_byte", False, keys, bits[kept], sizes[kept].astype(np.float64))


def by_position(nats: np.ndarray, visible: np.ndarray, context: int) -> list[dict[str, Any]]:
    """Loss by tokens of context visible, in buckets that double; empty buckets are left out."""
    rows = []
    for first, last in bucket_bounds(context):
        inside = nats[(visible >= first) & (visible <= last)]
        if len(inside):
            loss = float(inside.mean())
            rows.append(
                {
                    "from": first,
                    "to": last,
                    "tokens": len(inside),
                    "loss": loss,
                    "perplexity": math.exp(min(loss, 700.0)),
                }
            )
    return rows


def bucket_bounds(context: int) -> list[tuple[int, int]]:
    """First and last visible-context length of each bucket, 1 to `context`."""
    bounds, first, last = [], 1, _FIRST_BUCKET_END
    while first <= context:
        bounds.append((first, min(last, context)))
        first, last = last + 1, last * 2
    return bounds
