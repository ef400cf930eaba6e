"""Does the context hold beyond what was trained? Perplexity and recall at 1, 2 and 4 times the training context.

Perplexity is compared on the same tokens: the last ones of each window, given the last tokens of a shorter or longer
context. So one sees whether more context helps, does nothing, or breaks the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.config import ContextLimitsConfig, NeedleConfig
from tasks.evaluation.held_out import Corpus
from tasks.evaluation.language_model import IntArray, LanguageModel
from tasks.evaluation.needle import Cell, NeedleQuestion, ask

#: Fewer windows, or windows from fewer documents, say little about a language.
_LEAST_WINDOWS = 4
_LEAST_DOCUMENTS = 8
SINGLE_DOCUMENTS = "single documents"
JOINED_DOCUMENTS = "documents joined by the separator"


@dataclass(frozen=True)
class PlannedLength:
    """A context length to be tested, or the reason why it is not."""

    tokens: int
    name: str  # "1×", "4× = full"
    obstacle: str = ""


@dataclass(frozen=True)
class Targets:
    """Windows that end with the tokens to be predicted, for all lengths the same."""

    text: IntArray  # tokens
    ends: IntArray  # [windows], places in `text`, each behind a window's last token
    kind: str
    scored: int  # tokens predicted at the end of each window

    def rows(self, length: int) -> list[IntArray]:
        """The windows, each cut to its last `length` tokens."""
        return [self.text[end - length : end] for end in self.ends]


@dataclass(frozen=True)
class MeasuredLength:
    """What was found at one length."""

    tokens: int
    window_losses: list[float]  # nats a token, of each window's last tokens
    cells: list[Cell]  # recall by depth; empty where no needle fits


def plan_lengths(
    config: ContextLimitsConfig, needle: NeedleConfig, trained: int, model_maximum: int, held_out_tokens: int
) -> list[PlannedLength]:
    """1× the training context first, its multiples and the full context, ascending; each once."""
    full = config.full_tokens or model_maximum
    names = {trained: ["1×"]}
    for multiple in config.multiples:
        names.setdefault(multiple * trained, []).append(f"{multiple}×")
    names.setdefault(full, []).append("full")
    planned = []
    for tokens in sorted(names, key=lambda tokens: (tokens != trained, tokens)):
        name = " = ".join(names[tokens])
        obstacle = _obstacle(config, needle, tokens, model_maximum, held_out_tokens)
        planned.append(PlannedLength(tokens, name, f"{name} = {tokens:,} tokens {obstacle}" if obstacle else ""))
    return planned


def _obstacle(
    config: ContextLimitsConfig, needle: NeedleConfig, tokens: int, model_maximum: int, held_out_tokens: int
) -> str:
    if tokens > model_maximum:
        return f"is over the model's maximum_context of {model_maximum:,}"
    if tokens <= config.scored_tokens:
        return f"leaves no context for context_limits.scored_tokens ({config.scored_tokens:,})"
    if (work := tokens_to_read(config, needle, tokens)) > config.token_limit:
        return f"would read {work:,} tokens, over context_limits.token_limit ({config.token_limit:,})"
    if held_out_tokens < tokens + (_LEAST_WINDOWS - 1) * config.scored_tokens:
        return f"is too much for the held-out text of {held_out_tokens:,} tokens"
    return ""


def tokens_to_read(config: ContextLimitsConfig, needle: NeedleConfig, length: int) -> int:
    """Of all windows and needle prompts of one length; candidates are not counted."""
    prompts = needle.samples_per_cell * (len(needle.depths) + 1)
    return length * (config.windows + prompts)


def choose_targets(corpus: Corpus, separator: int, longest: int, config: ContextLimitsConfig, seed: int) -> Targets:
    """Windows of `longest` tokens whose last `scored_tokens` do not overlap; the same for the same seed.

    From documents of that length where there are at least 8; else consecutive documents are joined, the separator
    between them. The corpus must have room for 4 windows.
    """
    random = np.random.default_rng([seed, longest])
    long = np.flatnonzero(corpus.lengths >= longest)
    if len(long) >= _LEAST_DOCUMENTS:
        ends = _ends_in_documents(corpus, random.permutation(long), longest, config, random)
        return Targets(np.asarray(corpus.tokens, np.int64), ends, SINGLE_DOCUMENTS, config.scored_tokens)
    text = _joined(corpus, separator, config.windows * longest)
    ends = longest + _draw_slots(len(text) - longest, config.scored_tokens, config.windows, random)
    return Targets(text, ends, JOINED_DOCUMENTS, config.scored_tokens)


def _ends_in_documents(
    corpus: Corpus, chosen: IntArray, longest: int, config: ContextLimitsConfig, random: np.random.Generator
) -> IntArray:
    """Spread over the documents: a second window of one only when all have had one."""
    used = chosen[: config.windows]
    shares = np.bincount(np.arange(config.windows) % len(used))
    parts = [
        corpus.starts[document]
        + longest
        + _draw_slots(int(corpus.lengths[document]) - longest, config.scored_tokens, int(share), random)
        for document, share in zip(used, shares, strict=True)
    ]
    return np.concatenate(parts)


def _draw_slots(room: int, size: int, count: int, random: np.random.Generator) -> IntArray:
    """Up to `count` different multiples of `size`, from 0 to `room`, ascending."""
    slots = room // size + 1
    drawn: IntArray = np.sort(random.permutation(slots)[:count]) * size
    return drawn


def _joined(corpus: Corpus, separator: int, enough: int) -> IntArray:
    """Documents from the first on, each with its separator before it, of `enough` tokens if there are so many."""
    needed = int(np.searchsorted(np.cumsum(corpus.lengths + 1), enough)) + 1
    lengths = corpus.lengths[:needed]
    tokens = np.asarray(corpus.tokens[: int(lengths.sum())], np.int64)
    joined: IntArray = np.insert(tokens, np.cumsum(lengths) - lengths, separator)
    return joined


def measure_length(
    model: LanguageModel, length: int, targets: Targets, needle: NeedleConfig, questions: Sequence[NeedleQuestion]
) -> MeasuredLength:
    """Losses of the targets given what fits into `length`, and recall at it."""
    nats = model.token_nats(targets.rows(length))
    losses = [float(row[-targets.scored :].mean()) for row in nats]
    return MeasuredLength(length, losses, ask(model, needle, questions) if questions else [])


def trained_context(config: ContextLimitsConfig, manifest_config: dict[str, Any]) -> int | None:
    """As configured, else what the checkpoint's last training stage ran at; None when nobody says."""
    found = config.trained_tokens or manifest_config.get("context_tokens")
    return None if found is None else int(found)
