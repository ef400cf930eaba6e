"""The rules and the quality score: what the counts of documents mean, for all documents at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tasks.quality.config import RuleLimits
from tasks.quality.counts import Column, Counts, LineFilter

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int16]
#: A limit as it stands in a rule set; None turns the rule off.
Limit = float | None

#: Quality scores are whole numbers below this, so that the cut by a histogram of them is exact.
SCORE_LEVELS = 1 << 16

LINE_FILTERS = {"none": LineFilter.NONE, "c4": LineFilter.C4, "c4_closed": LineFilter.C4_CLOSED}

#: Shares of running English prose, from which the score's scales are taken (Brown corpus, Wikipedia).
_FUNCTION_WORDS_OF_PROSE = 0.4
_LETTERS_OF_PROSE = (0.55, 0.9)
_WORD_LENGTH_OF_PROSE = 4.7
_WORD_LENGTH_TOLERANCE = 3.0
_WORST_REPETITION = 0.15


class Family(StrEnum):
    """Whose rule it is."""

    GOPHER_QUALITY = "Gopher quality"
    GOPHER_REPETITION = "Gopher repetition"
    C4 = "C4"
    FINEWEB = "FineWeb"
    CODE = "code"


@dataclass(frozen=True)
class Rule:
    """`value` of the counts must not be over (or under) `limit` of the rule set."""

    family: Family
    reason: str
    value: Callable[[Counts], Floats]
    limit: Callable[[RuleLimits], Limit]
    is_least: bool = False

    def broken(self, values: Floats, limit: Floats) -> npt.NDArray[np.bool_]:
        """[documents] which break the rule."""
        result: npt.NDArray[np.bool_] = values < limit if self.is_least else values > limit
        return result


def _of(column: Column) -> Callable[[Counts], Floats]:
    return lambda counts: counts[:, column].astype(np.float64)


def _share(part: Column, whole: Column) -> Callable[[Counts], Floats]:
    return lambda counts: counts[:, part] / np.maximum(counts[:, whole], 1)


def _line_breaks_per_word(counts: Counts) -> Floats:
    breaks: Floats = (counts[:, Column.KEPT_LINES] - 1) / np.maximum(counts[:, Column.KEPT_TOKENS], 1)
    return breaks


def _limit(name: str) -> Callable[[RuleLimits], Limit]:
    def read(limits: RuleLimits) -> Limit:
        limit: Limit = getattr(limits, name)
        return limit

    return read


def _forbidden(name: str) -> Callable[[RuleLimits], Limit]:
    return lambda limits: 0.0 if getattr(limits, name) else None


def _word_length(end: int) -> Callable[[RuleLimits], Limit]:
    return lambda limits: None if limits.mean_word_length is None else limits.mean_word_length[end]


_G, _R, _C, _F, _S = Family
_MEAN_WORD = _share(Column.WORD_CHARACTERS, Column.WORDS)
_CHARACTERS = Column.CHARACTERS

#: In the order in which datatrove's filters ask.
RULES: tuple[Rule, ...] = (
    Rule(_G, "too few words", _of(Column.WORDS), _limit("minimum_words"), is_least=True),
    Rule(_G, "too many words", _of(Column.WORDS), _limit("maximum_words")),
    Rule(_G, "short words", _MEAN_WORD, _word_length(0), is_least=True),
    Rule(_G, "long words", _MEAN_WORD, _word_length(1)),
    Rule(_G, "too many hash signs", _share(Column.HASHES, Column.TOKENS), _limit("maximum_symbols_per_word")),
    Rule(_G, "too many ellipses", _share(Column.ELLIPSES, Column.TOKENS), _limit("maximum_symbols_per_word")),
    Rule(_G, "mostly bullet points", _share(Column.BULLET_LINES, Column.LINES), _limit("maximum_bullet_lines")),
    Rule(_G, "mostly cut-off lines", _share(Column.ELLIPSIS_LINES, Column.LINES), _limit("maximum_ellipsis_lines")),
    Rule(_G, "too few alphabetic words", _share(Column.LETTER_TOKENS, Column.TOKENS),
         _limit("minimum_alphabetic_words"), is_least=True),
    Rule(_G, "too few stop words", _of(Column.STOP_WORDS), _limit("minimum_stop_words"), is_least=True),
    Rule(_R, "repeated paragraphs", _share(Column.DUPLICATE_PARAGRAPHS, Column.PARAGRAPHS),
         _limit("maximum_duplicate_paragraphs")),
    Rule(_R, "repeated paragraphs", _share(Column.DUPLICATE_PARAGRAPH_CHARACTERS, _CHARACTERS),
         _limit("maximum_duplicate_paragraph_characters")),
    Rule(_R, "repeated lines", _share(Column.DUPLICATE_LINES, Column.FULL_LINES), _limit("maximum_duplicate_lines")),
    Rule(_R, "repeated lines", _share(Column.DUPLICATE_LINE_CHARACTERS, _CHARACTERS),
         _limit("maximum_duplicate_line_characters")),
    *(Rule(_R, "repeated phrase", _share(Column(Column.TOP_2GRAM + length - 2), _CHARACTERS),
           _limit(f"maximum_top_{length}gram")) for length in (2, 3, 4)),
    *(Rule(_R, "repeated passages", _share(Column(Column.DUPLICATE_5GRAMS + length - 5), _CHARACTERS),
           _limit(f"maximum_duplicate_{length}grams")) for length in range(5, 11)),
    Rule(_C, "placeholder text", _of(Column.LOREM_LINES), _forbidden("forbid_placeholders")),
    Rule(_C, "braces in prose", _of(Column.BRACE_LINES), _forbidden("forbid_braces")),
    Rule(_C, "too few sentences", _of(Column.SENTENCES), _limit("minimum_sentences"), is_least=True),
    Rule(_F, "lines without punctuation", _share(Column.KEPT_CLOSED_LINES, Column.KEPT_LINES),
         _limit("minimum_terminal_lines"), is_least=True),
    Rule(_F, "mostly short lines", _share(Column.KEPT_SHORT_LINES, Column.KEPT_LINES), _limit("maximum_short_lines")),
    Rule(_F, "lines said again", _share(Column.KEPT_DUPLICATE_CHARACTERS, Column.KEPT_CHARACTERS),
         _limit("maximum_repeated_line_characters")),
    Rule(_F, "mostly a list", _line_breaks_per_word, _limit("maximum_lines_per_word")),
    Rule(_S, "long lines", _share(Column.KEPT_CHARACTERS, Column.KEPT_LINES), _limit("maximum_mean_line_characters")),
    Rule(_S, "long lines", _of(Column.LONGEST_LINE), _limit("maximum_line_characters")),
    Rule(_S, "too few letters", _share(Column.LETTERS, Column.VISIBLE), _limit("minimum_letters"), is_least=True),
)  # fmt: skip


def first_broken(
    counts: Counts, rule_sets: Mapping[str, RuleLimits], names: Sequence[str], set_of: npt.NDArray[np.integer]
) -> tuple[Codes, Floats]:
    """[documents] the first rule (index into `RULES`, -1 for none) that each breaks, and the figure that broke it.

    set_of: [documents] index into `names` of the rule set that judges each.
    """
    broken, values = np.full(len(counts), -1, np.int16), np.zeros(len(counts))
    for index, rule in enumerate(RULES):
        limits = np.array([_or_none(rule.limit(rule_sets[name])) for name in names])[set_of]
        open_ = np.flatnonzero((broken < 0) & ~np.isnan(limits))
        if not len(open_):
            continue
        of_open = rule.value(counts[open_])
        breaking = rule.broken(of_open, limits[open_])
        broken[open_[breaking]] = index
        values[open_[breaking]] = of_open[breaking]
    return broken, values


def _or_none(limit: Limit) -> float:
    return float("nan") if limit is None else float(limit)


def quality_level(score: Floats) -> npt.NDArray[np.uint16]:
    """Scores in 0..1 as levels (see `SCORE_LEVELS`)."""
    return np.rint(np.clip(score, 0.0, 1.0) * (SCORE_LEVELS - 1)).astype(np.uint16)


def score_of_level(level: npt.NDArray[np.integer]) -> Floats:
    """The score that a level stands for."""
    score: Floats = level / (SCORE_LEVELS - 1)
    return score


def linear_score(counts: Counts) -> Floats:
    """[documents] one linear score in 0..1 over the measures: how much a text reads like well-formed prose.

    0.30 function words + 0.25 letters + 0.20 lines that end in punctuation + 0.15 absence of
    repeated passages + 0.10 ordinary word length; each part scaled to 0..1. It only ranks texts of
    one kind.
    """
    low, high = _LETTERS_OF_PROSE
    function_words = _share(Column.FUNCTION_WORDS, Column.WORDS)(counts)
    letters = _share(Column.LETTERS, Column.VISIBLE)(counts)
    closed = _share(Column.KEPT_CLOSED_LINES, Column.KEPT_LINES)(counts)
    repeated = _share(Column.DUPLICATE_5GRAMS, Column.CHARACTERS)(counts)
    parts = (
        0.30 * _unit(function_words / _FUNCTION_WORDS_OF_PROSE),
        0.25 * _unit((letters - low) / (high - low)),
        0.20 * _unit(closed),
        0.15 * _unit(1 - repeated / _WORST_REPETITION),
        0.10 * _unit(1 - np.abs(_MEAN_WORD(counts) - _WORD_LENGTH_OF_PROSE) / _WORD_LENGTH_TOLERANCE),
    )
    score: Floats = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    return score


def _unit(values: Floats) -> Floats:
    return np.clip(values, 0.0, 1.0)
