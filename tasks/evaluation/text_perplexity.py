"""Perplexity of plain texts, such as WikiText-2's, a word, a byte and a token, and by visible context.

Windows and counts are those of lm-eval's rolling log-likelihood and its `wikitext` task, so that figures compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.interface import ModelInterface
from tasks.evaluation.perplexity import by_position

_LARGEST_EXPONENT = 700.0


def measure_text_perplexity(
    model: ModelInterface, texts: Sequence[str], context: int, counted: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score each text as a document after the separator, in disjoint windows of at most `context` tokens.

    counted: the texts whose words and bytes count, where others are scored (WikiText's detokenized pages are scored,
    and its own words counted). Returns totals (`documents`, `tokens`, `words`, `bytes`, `nats`), `word_perplexity`,
    `byte_perplexity`, `bits_per_byte`, `perplexity` (a token) and `by_position`. Raises ValueError when there is no
    text.
    """
    counted = texts if counted is None else counted
    windows = [window for text in texts for window in _windows(model, text, context)]
    if not windows or len(counted) != len(texts):
        raise ValueError(f"{len(texts)} texts to score, {len(counted)} to count: give equally many, with text in them")
    rows = model.score_tokens([[*before, *scored] for before, scored in windows])
    nats = [-row[len(row) - len(scored) :] for row, (_, scored) in zip(rows, windows, strict=True)]
    visible = [len(before) + np.arange(len(scored)) for before, scored in windows]
    total = math.fsum(float(row.sum()) for row in nats)
    tokens = sum(map(len, nats))
    words = sum(len(re.split(r"\s+", text)) for text in counted)
    size = sum(len(text.encode()) for text in counted)
    return {
        "documents": len(texts),
        "tokens": tokens,
        "words": words,
        "bytes": size,
        "nats": total,
        "word_perplexity": _perplexity(total / words),
        "byte_perplexity": _perplexity(total / size),
        "bits_per_byte": total / size / math.log(2),
        "perplexity": _perplexity(total / tokens),
        "by_position": by_position(np.concatenate(nats), np.concatenate(visible), context),
    }


def _windows(model: ModelInterface, text: str, context: int) -> list[tuple[list[int], list[int]]]:
    """(tokens before, tokens scored) of each window."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # seconds that other measures do not need

    rolling = get_rolling_token_windows(model.encode(text), model.separator, context, context_len=1)
    return [make_disjoint_window(window) for window in rolling]


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, _LARGEST_EXPONENT))
