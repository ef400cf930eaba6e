"""The rules and the quality score: what the measures of a document mean."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.quality.config import RuleLimits

#: Shares of running English prose, from which the score's scales are taken (Brown corpus, Wikipedia).
_FUNCTION_WORDS_OF_PROSE = 0.4
_LETTERS_OF_PROSE = (0.55, 0.9)
_WORD_LENGTH_OF_PROSE = 4.7
_WORD_LENGTH_TOLERANCE = 3.0
_WORST_REPETITION = 0.15

_PLACEHOLDERS = ("lorem ipsum", "enable javascript", "javascript is disabled")


def broken_rule(measures: dict[str, float], text: str, limits: RuleLimits) -> tuple[str, float] | None:
    """The first rule that a document breaks and the figure that broke it, or None."""
    return next(_broken(measures, text, limits), None)


def _broken(m: dict[str, float], text: str, limits: RuleLimits) -> Iterator[tuple[str, float]]:
    if m["words"] < limits.minimum_words:
        yield "too few words", m["words"]
    if m["words"] > limits.maximum_words:
        yield "too many words", m["words"]
    if limits.mean_word_length is not None:
        low, high = limits.mean_word_length
        if not low <= m["mean_word_length"] <= high:
            yield "unusual word length", m["mean_word_length"]
    if m["stop_words"] < limits.minimum_stop_words:
        yield "too few stop words", m["stop_words"]
    for measure, limit, reason in (
        ("symbols_per_word", limits.maximum_symbols_per_word, "too many symbols"),
        ("bullet_lines", limits.maximum_bullet_lines, "mostly bullet points"),
        ("ellipsis_lines", limits.maximum_ellipsis_lines, "mostly cut-off lines"),
        ("duplicate_lines", limits.maximum_duplicate_lines, "repeated lines"),
        ("duplicate_line_characters", limits.maximum_duplicate_line_characters, "repeated lines"),
        ("top_2gram", limits.maximum_top_2gram, "repeated phrase"),
        ("top_3gram", limits.maximum_top_3gram, "repeated phrase"),
        ("top_4gram", limits.maximum_top_4gram, "repeated phrase"),
        ("duplicate_5grams", limits.maximum_duplicate_5grams, "repeated passages"),
        ("duplicate_10grams", limits.maximum_duplicate_10grams, "repeated passages"),
        ("short_lines", limits.maximum_short_lines, "mostly short lines"),
        ("mean_line_characters", limits.maximum_mean_line_characters, "long lines"),
        ("longest_line_characters", limits.maximum_line_characters, "long lines"),
    ):
        if limit is not None and m[measure] > limit:
            yield reason, m[measure]
    for measure, limit, reason in (
        ("alphabetic_words", limits.minimum_alphabetic_words, "too few alphabetic words"),
        ("terminal_lines", limits.minimum_terminal_lines, "lines without punctuation"),
        ("letters", limits.minimum_letters, "too few letters"),
    ):
        if limit is not None and m[measure] < limit:
            yield reason, m[measure]
    if limits.forbid_braces and m["braces"] > 0:
        yield "braces in prose", m["braces"]
    if limits.forbid_placeholders and any(phrase in text.lower() for phrase in _PLACEHOLDERS):
        yield "placeholder text", 1.0


def quality_score(m: dict[str, float]) -> float:
    """One linear score in 0..1 over the measures: how much a text reads like well-formed prose.

    0.30 function words + 0.25 letters + 0.20 lines that end in punctuation + 0.15 absence of
    repeated passages + 0.10 ordinary word length; each part scaled to 0..1. It only ranks texts of
    one kind, so by default the cut is taken per rule set.
    """
    low, high = _LETTERS_OF_PROSE
    parts = (
        0.30 * _unit(m["function_words"] / _FUNCTION_WORDS_OF_PROSE),
        0.25 * _unit((m["letters"] - low) / (high - low)),
        0.20 * _unit(m["terminal_lines"]),
        0.15 * _unit(1 - m["duplicate_5grams"] / _WORST_REPETITION),
        0.10 * _unit(1 - abs(m["mean_word_length"] - _WORD_LENGTH_OF_PROSE) / _WORD_LENGTH_TOLERANCE),
    )
    # Rounded, so that the last bits of a sum never decide which side of the cut a text is on.
    return round(sum(parts), 6)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
