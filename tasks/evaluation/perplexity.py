"""Held-out perplexity, bits per byte, and both by how much context the model could see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tasks.evaluation.held_out import Corpus, windows_of
from tasks.evaluation.language_model import LanguageModel

#: Position buckets start here and double up to the full context.
_FIRST_BUCKET_END = 16


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total nats over a text as bits for each UTF-8 byte of it: comparable between tokenizers."""
    return nats / math.log(2) / text_bytes


def measure_perplexity(
    model: LanguageModel, corpus: Corpus, text_bytes: int, separator: int, context: int, overlap: int
) -> dict[str, Any]:
    """Score every token of every document, the first one given the separator that opens the document.

    The separator itself is never predicted: it is no text. Returns totals (`nats`, `tokens`,
    `bytes`), `loss` (nats a token), `perplexity`, `bits_per_byte`, and `by_position`: rows of
    `from`, `to` (tokens of context visible), `tokens`, `loss`, `perplexity`.
    """
    windows = [
        window
        for index in range(len(corpus.lengths))
        for window in windows_of(corpus.document(index), separator, context, overlap)
    ]
    nats = model.token_nats([window.row for window in windows])
    scored = [row[window.unscored :] for row, window in zip(nats, windows, strict=True)]
    visible = [np.arange(window.unscored + 1, len(window.row)) for window in windows]
    total = math.fsum(float(row.sum()) for row in scored)
    tokens = sum(len(row) for row in scored)
    assert tokens == len(corpus.tokens), "every token is scored exactly once"
    return {
        "documents": len(corpus.lengths),
        "tokens": tokens,
        "bytes": text_bytes,
        "nats": total,
        "loss": total / tokens,
        "perplexity": math.exp(min(total / tokens, 700.0)),
        "bits_per_byte": bits_per_byte(total, text_bytes),
        "by_position": by_position(np.concatenate(scored), np.concatenate(visible), context),
    }


def by_position(nats: np.ndarray, visible: np.ndarray, context: int) -> list[dict[str, Any]]:
    """Loss by tokens of context visible, in buckets that double; empty buckets are left out."""
    rows = []
    for first, last in bucket_bounds(context):
        inside = nats[(visible >= first) & (visible <= last)]
        if len(inside):
            loss = float(inside.mean())
            rows.append({"from": first, "to": last, "tokens": len(inside), "loss": loss, "perplexity": math.exp(loss)})
    return rows


def bucket_bounds(context: int) -> list[tuple[int, int]]:
    """First and last visible-context length of each bucket, 1 to `context`."""
    bounds, first, last = [], 1, _FIRST_BUCKET_END
    while first <= context:
        bounds.append((first, min(last, context)))
        first, last = last + 1, last * 2
    return bounds
