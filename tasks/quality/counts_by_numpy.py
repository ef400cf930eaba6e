"""The counts without compiled loops: tokens by numpy over a whole batch, lines by string methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from tasks.quality.character_kinds import (
    BEFORE_STOP,
    CURRENCY,
    DIGIT,
    ICON,
    LETTER,
    LOWER,
    PREFIX,
    PUNCTUATION,
    QUOTE,
    SENTENCE_END,
    SPACE,
    SPLITTING,
    SUFFIX,
    SYMBOL,
    UPPER,
    Kinds,
    character_kinds,
)
from tasks.quality.compiled_tokens import T_END, T_LETTER, T_PUNCTUATION, T_SYMBOL, is_address
from tasks.quality.counts import (
    CITATIONS,
    FEWEST_LINE_WORDS,
    FUNCTION_BIT,
    JAVASCRIPT,
    LONGEST_WORD,
    LOREM,
    PHRASES,
    SHORT_LINE,
    STOP_BITS,
    Column,
    Counts,
    LineFilter,
)
from tasks.text.batch import Bytes, Positions, TextBatch
from tasks.text.characters import TABLE_SIZE
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, WORD_BASE, Hashes, contains, mix
from tasks.text.words import decode_characters

Flags = npt.NDArray[np.bool_]
ArrayT = TypeVar("ArrayT", bound=npt.NDArray[np.generic])

_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
_LINE_BREAKS = re.compile(r"\n+")
_CITATION = re.compile(r"\[[0-9]*\]|" + "|".join(re.escape(mark.decode()) for mark in CITATIONS))
_PHRASES = tuple((re.compile(re.escape(phrase.decode()), re.IGNORECASE | re.ASCII), bit) for phrase, _, bit in PHRASES)
_LETTERS = LOWER | UPPER
_ALPHANUMERIC = LOWER | UPPER | DIGIT


@dataclass(frozen=True)
class _Tokens:
    """starts, ends: [tokens] places among the characters; hashes, bits: [tokens]."""

    starts: Positions
    ends: Positions
    hashes: Hashes
    bits: Bytes


def count(
    batch: TextBatch, line_filters: npt.NDArray[np.uint8], vocabulary: Hashes, meanings: npt.NDArray[np.uint8]
) -> Counts:
    """[texts, columns] counts; `vocabulary` sorted, `meanings` beside it."""
    counts = np.zeros((len(batch), len(Column)), np.int64)
    codes, first = _separated(batch)
    kinds = _kinds_of(codes)
    tokens = _split(codes, kinds)
    bounds = np.searchsorted(tokens.starts, first)
    for text, (low, high) in enumerate(pairwise(bounds)):
        own = slice(low, high)
        begin, end = first[text], first[text + 1] - 1
        of_text = _Tokens(tokens.starts[own] - begin, tokens.ends[own] - begin, tokens.hashes[own], tokens.bits[own])
        row = counts[text]
        _count_characters(codes[begin:end], kinds[begin:end], row)
        _count_tokens(of_text, vocabulary, meanings, row)
        text_itself = codes[begin:end].astype("<u4").tobytes().decode("utf-32-le")
        _count_paragraphs(text_itself, row)
        _count_lines(text_itself, of_text.starts, of_text.bits, LineFilter(line_filters[text]), row)
        _count_repetition(of_text, row)
    return counts


def token_hashes(words: Sequence[str]) -> Hashes:
    """[words] hash of each as a token."""
    codes = np.array([ord(character) for word in words for character in word], np.int64)
    ends = np.cumsum([len(word) for word in words])
    return _hash_spans(codes, np.concatenate(([0], ends[:-1])), ends)


def _separated(batch: TextBatch) -> tuple[Positions, Positions]:
    """Code points with a space before the first text and after every text, and [texts + 1] where each begins."""
    characters = decode_characters(batch)
    text = np.searchsorted(batch.offsets, characters.places, side="right") - 1
    first = np.searchsorted(text, np.arange(len(batch) + 1)) + np.arange(len(batch) + 1) + 1
    codes = np.full(len(text) + len(batch) + 1, 0x20, np.int64)
    codes[np.arange(len(text)) + text + 1] = characters.codes
    return codes, first


def _kinds_of(codes: Positions) -> Kinds:
    kinds: Kinds = np.where(codes < TABLE_SIZE, character_kinds()[np.minimum(codes, TABLE_SIZE - 1)], SPLITTING).astype(
        np.uint32
    )
    return kinds


def _shifted(values: ArrayT, step: int) -> ArrayT:
    """The value `step` places further on (back where negative); the ends never matter, spaces stand there."""
    return cast(ArrayT, np.roll(values, -step))


def _split(codes: Positions, kinds: Kinds) -> _Tokens:
    """Tokens by the rules of `compiled_tokens`, each decided for all characters at once."""
    place = np.arange(len(codes))
    visible = kinds & SPACE == 0
    edges = np.diff(visible.astype(np.int8), prepend=0, append=0)
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    chunk = np.maximum(np.cumsum(edges[:-1] == 1) - 1, 0)
    if not len(begins):
        empty = np.zeros(0, np.int64)
        return _Tokens(empty, empty, np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    stop = codes == 0x2E
    dots = stop & (_shifted(stop, -1) | _shifted(stop, 1))
    prefix = (kinds & PREFIX > 0) | dots | ((codes == 0x2B) & (_shifted(kinds, 1) & DIGIT == 0))
    left = _first_at_or_after(np.flatnonzero(visible & ~prefix), begins, ends)
    left_of = left[chunk]
    suffix = _suffixes(codes, kinds, dots, place, left_of)
    right = _after_last_before(np.flatnonzero(visible & (place >= left_of) & ~suffix), ends, left)
    right_of = right[chunk]
    marks = _edge_marks(codes, place, visible, left_of, right_of)
    marks[left[left < ends]] = True
    _mark_middles(codes, kinds, dots, (left, right), (left_of, right_of), chunk, marks)
    starts = np.flatnonzero(marks & visible)
    token_ends = np.minimum(np.append(starts[1:], len(codes)), ends[chunk[starts]])
    return _Tokens(starts, token_ends, _hash_spans(codes, starts, token_ends), _bits(kinds, starts, token_ends))


def _first_at_or_after(places: Positions, begins: Positions, ends: Positions) -> Positions:
    found = np.append(places, np.iinfo(np.int64).max)[np.searchsorted(places, begins)]
    first: Positions = np.minimum(found, ends)
    return first


def _after_last_before(places: Positions, ends: Positions, least: Positions) -> Positions:
    found = np.concatenate(([-1], places))[np.searchsorted(places, ends)]
    result: Positions = np.maximum(found + 1, least)
    return result


def _suffixes(codes: Positions, kinds: Kinds, dots: Flags, place: Positions, left: Positions) -> Flags:
    before, before_kind, second_kind = _shifted(codes, -1), _shifted(kinds, -1), _shifted(kinds, -2)
    stop = codes == 0x2E
    abbreviation = (place - 1 == left) & (before_kind & LOWER > 0) & (before < 0x80)
    abbreviation |= (place - 3 == left) & (_shifted(codes, -2) == 0x2E) & (before_kind & _LETTERS > 0)
    two_upper = (place - 2 >= left) & (before_kind & UPPER > 0) & (second_kind & UPPER > 0)
    after = stop & ~abbreviation & ((before_kind & BEFORE_STOP > 0) | two_upper)
    unit = (codes == 0x2B) | (codes == 0x25) | ((kinds & CURRENCY > 0) & ~stop)
    after |= unit & (before_kind & DIGIT > 0)
    after |= ~unit & ((codes == 0x73) | (codes == 0x53)) & ((before == 0x27) | (before == 0x2019))
    suffixes: Flags = (kinds & SUFFIX > 0) | dots | (after & (place > left))
    return suffixes


def _edge_marks(codes: Positions, place: Positions, visible: Flags, left: Positions, right: Positions) -> Flags:
    """Where tokens begin among the characters split off both ends of a word."""
    before = _shifted(codes, -1)
    joined = (codes == 0x2E) & (before == 0x2E)
    joined |= (before != 0x2E) & ((codes == 0x73) | (codes == 0x53))
    # The first character of a word, and the first behind its middle, join nothing before them.
    fresh = ~np.roll(visible, 1) | (place == right)
    marks: Flags = visible & ((place < left) | (place >= right)) & (fresh | ~joined)
    return marks


def _mark_middles(
    codes: Positions,
    kinds: Kinds,
    dots: Flags,
    middles: tuple[Positions, Positions],
    middle_of: tuple[Positions, Positions],
    chunk: Positions,
    marks: Flags,
) -> None:
    """Mark the tokens inside words without their edges: addresses are whole, others split at infixes."""
    place = np.arange(len(codes))
    left, right = middles
    inside = (place >= middle_of[0]) & (place < middle_of[1]) & (kinds & SPACE == 0)
    infix_start, infix_end = _infixes(codes, kinds, dots, place, middle_of)
    chosen = np.flatnonzero(infix_start & inside)
    owner = chunk[chosen]
    whole = np.zeros(len(left), np.bool_)
    function: Any = getattr(is_address, "py_func", is_address)  # not compiled, even where numba is
    for middle in np.unique(owner):
        own = slice(left[middle], right[middle])
        whole[middle] = function(codes[own], kinds[own], 0, int(right[middle] - left[middle]))
    chosen = chosen[~whole[owner]]
    behind = infix_end[chosen]
    last = left.copy()
    np.maximum.at(last, chunk[chosen], behind)
    marks[chosen] = True
    marks[behind[behind < right[chunk[chosen]]]] = True
    split = (right - left >= 3) & ~whole
    cut = _contractions(codes, kinds, last[split], right[split])
    marks[cut[cut < right[split]]] = True


def _infixes(
    codes: Positions, kinds: Kinds, dots: Flags, place: Positions, middle_of: tuple[Positions, Positions]
) -> tuple[Flags, Positions]:
    """Where infixes begin, and for each place where one that begins there ends."""
    before, after = _shifted(kinds, -1), _shifted(kinds, 1)
    between = (place > middle_of[0]) & (place + 1 < middle_of[1])
    letter_after, run = after & _LETTERS > 0, codes == 0x2D
    fits = (codes == 0x2E) & (before & (LOWER | QUOTE) > 0) & (after & (UPPER | QUOTE) > 0)
    fits |= (codes == 0x2C) & (before & _LETTERS > 0) & letter_after
    operators = np.isin(codes, (0x2B, 0x2A, 0x5E, 0x2D))
    fits |= operators & (before & DIGIT > 0) & ((after & DIGIT > 0) | _shifted(run, 1))
    joints = np.isin(codes, (0x3A, 0x3C, 0x3E, 0x3D, 0x2F, 0x7E, 0x2013, 0x2014))
    fits |= joints & (before & _ALPHANUMERIC > 0) & letter_after
    dot_run = dots & ~_shifted(codes == 0x2E, -1)
    fits = (fits & between & ~dots) | (kinds & ICON > 0)
    hyphen_end = _run_ends(run, place)
    behind = kinds[np.minimum(hyphen_end, len(kinds) - 1)]
    hyphens = run & ~fits & between & (before & _ALPHANUMERIC > 0) & (hyphen_end - place <= 3)
    hyphens &= (behind & _LETTERS > 0) & (hyphen_end < middle_of[1])
    ends = np.where(hyphens, hyphen_end, place + 1)
    ends = np.where(dot_run, _run_ends(codes == 0x2E, place), ends)
    return fits | hyphens | dot_run, ends


def _run_ends(members: Flags, place: Positions) -> Positions:
    """[places] the first place from each on that is no member."""
    others = np.flatnonzero(~members)
    return np.append(others, len(members))[np.searchsorted(others, place)]


def _contractions(codes: Positions, kinds: Kinds, start: Positions, end: Positions) -> Positions:
    """Where "n't", "'ll", "'re", "'ve", "'m" or "'d" begins at the end of [start, end); `end` without one."""
    last, second, third = (codes[end - back] | 0x20 for back in (1, 2, 3))
    apostrophe = np.isin(codes, (0x27, 0x2019))
    short = (end - 2 > start) & apostrophe[end - 2]
    cut_not = short & (last == 0x74) & (end - 3 > start) & (third == 0x6E)
    cut_one = short & ((last == 0x6D) | (last == 0x64)) & (kinds[end - 3] & LETTER > 0)
    cut_two = (end - 3 > start) & apostrophe[end - 3] & (kinds[end - 4] & LETTER > 0)
    cut_two &= ((second == 0x6C) & (last == 0x6C)) | (((second == 0x72) | (second == 0x76)) & (last == 0x65))
    return np.where(cut_not, end - 3, np.where(cut_one, end - 2, np.where(cut_two, end - 3, end)))


def _hash_spans(codes: Positions, starts: Positions, ends: Positions) -> Hashes:
    """Hashes of spans of characters from one running sum: sum(v[j] / base**j) * base**last."""
    count = max(len(codes), 1)
    values = (codes.astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    inverse = _powers(pow(int(WORD_BASE), -1, 1 << 64), count)[: len(codes)]
    running = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(values * inverse, out=running[1:])
    return mix((running[ends] - running[starts]) * _powers(int(WORD_BASE), count)[ends - 1])


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _bits(kinds: Kinds, starts: Positions, ends: Positions) -> Bytes:
    padded = np.append(kinds, np.uint32(0))
    spans = np.stack((starts, ends), axis=1).ravel()
    some, every = np.bitwise_or.reduceat(padded, spans)[::2], np.bitwise_and.reduceat(padded, spans)[::2]
    bits = np.where(every & SYMBOL, T_SYMBOL, 0) | np.where(some & LETTER, T_LETTER, 0)
    bits |= np.where(every & PUNCTUATION, T_PUNCTUATION, 0)
    bits |= np.where((ends - starts == 1) & (some & SENTENCE_END > 0), T_END, 0)
    return bits.astype(np.uint8)


def _count_characters(codes: Positions, kinds: Kinds, row: Counts) -> None:
    row[Column.CHARACTERS] = len(codes)
    row[Column.VISIBLE] = np.count_nonzero(kinds & SPACE == 0)
    row[Column.LETTERS] = np.count_nonzero(kinds & LETTER)


def _count_tokens(tokens: _Tokens, vocabulary: Hashes, meanings: npt.NDArray[np.uint8], row: Counts) -> None:
    words = tokens.bits & T_SYMBOL == 0
    row[Column.TOKENS] = len(words)
    row[Column.WORDS] = np.count_nonzero(words)
    row[Column.WORD_CHARACTERS] = (tokens.ends - tokens.starts)[words].sum()
    row[Column.LETTER_TOKENS] = np.count_nonzero(tokens.bits & T_LETTER)
    known = tokens.hashes[contains(vocabulary, tokens.hashes)]
    found = meanings[np.searchsorted(vocabulary, known)]
    row[Column.FUNCTION_WORDS] = np.count_nonzero(found & FUNCTION_BIT)
    row[Column.STOP_WORDS] = len(set((found & STOP_BITS).tolist()) - {0})


def _duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts equal an earlier one, and their characters."""
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def _count_paragraphs(text: str, row: Counts) -> None:
    row[Column.HASHES] = text.count("#")
    row[Column.ELLIPSES] = text.count("...") + text.count("…")
    row[Column.LINKS] = text.count("://")
    if text:
        lines = _LINE_BREAKS.split(text)
        row[Column.FULL_LINES] = len(lines)
        row[Column.DUPLICATE_LINES], row[Column.DUPLICATE_LINE_CHARACTERS] = _duplicates(lines)
    if text.strip():
        paragraphs = _PARAGRAPH_BREAK.split(text.strip())
        row[Column.PARAGRAPHS] = len(paragraphs)
        row[Column.DUPLICATE_PARAGRAPHS], row[Column.DUPLICATE_PARAGRAPH_CHARACTERS] = _duplicates(paragraphs)


def _count_lines(text: str, starts: Positions, bits: Bytes, line_filter: LineFilter, row: Counts) -> None:
    lines = text.splitlines(keepends=True)
    token = np.searchsorted(starts, np.cumsum([0, *map(len, lines)]))
    seen: set[str] = set()
    for number, line in enumerate(lines):
        stripped = line.strip()
        row[Column.LINES] += 1
        if not stripped:
            continue
        row[Column.BULLET_LINES] += stripped.startswith(("-", "•"))
        row[Column.ELLIPSIS_LINES] += stripped.endswith(("...", "…"))
        cleaned = _kept_line(stripped, line_filter, row)
        if cleaned is None:
            continue
        row[Column.KEPT_LINES] += 1
        row[Column.KEPT_CHARACTERS] += len(cleaned)
        row[Column.KEPT_SHORT_LINES] += len(cleaned) <= SHORT_LINE
        row[Column.KEPT_CLOSED_LINES] += bool(cleaned) and _is_sentence_end(cleaned[-1])
        row[Column.LONGEST_LINE] = max(row[Column.LONGEST_LINE], len(cleaned))
        own = bits[token[number] : token[number + 1]]
        row[Column.KEPT_TOKENS] += len(own)
        row[Column.SENTENCES] += _sentences(own)
        if cleaned in seen:
            row[Column.KEPT_DUPLICATE_CHARACTERS] += len(cleaned)
        seen.add(cleaned)


def _is_sentence_end(character: str) -> bool:
    return ord(character) < TABLE_SIZE and bool(character_kinds()[ord(character)] & SENTENCE_END)


def _kept_line(stripped: str, line_filter: LineFilter, row: Counts) -> str | None:
    """The line without citations, or None where C4 drops it."""
    phrases = 0
    for pattern, bit in _PHRASES:
        if pattern.search(stripped):
            phrases |= bit
    if line_filter == LineFilter.NONE:
        row[Column.LOREM_LINES] += bool(phrases & LOREM)
        row[Column.BRACE_LINES] += "{" in stripped
        return stripped
    cleaned = _CITATION.sub("", stripped)
    words = stripped.split()
    if max(map(len, words)) > LONGEST_WORD:
        return None
    closed = cleaned.endswith((".", "?", "!", '"', "'")) and not cleaned.endswith("...")
    if (line_filter == LineFilter.C4_CLOSED and not closed) or len(words) < FEWEST_LINE_WORDS:
        return None
    row[Column.LOREM_LINES] += bool(phrases & LOREM)
    if not phrases & LOREM and phrases & JAVASCRIPT:
        return None
    row[Column.BRACE_LINES] += "{" in cleaned
    return None if phrases & ~(LOREM | JAVASCRIPT) else cleaned


def _sentences(bits: Bytes) -> int:
    """A sentence begins at the first word after a sentence end."""
    ends = bits & T_END > 0
    words = np.flatnonzero(~ends & (bits & T_PUNCTUATION == 0))
    before = np.cumsum(ends)[words]
    return int(len(bits) > 0) + int(np.count_nonzero(np.diff(before, prepend=0)))


def _count_repetition(tokens: _Tokens, row: Counts) -> None:
    total = len(tokens.hashes)
    running = np.concatenate(([0], np.cumsum(tokens.ends - tokens.starts)))
    identity = np.zeros(total, np.int64)
    places = np.arange(max(total - 1, 0))
    keys = tokens.hashes[:-1] * RUN_BASE + tokens.hashes[1:]
    for length in range(2, min(total, 10) + 1):
        if length > 2:
            places = places[:-1][np.diff(places) == 1]
            keys = identity[places].astype(np.uint64) << np.uint64(32) | identity[places + 1].astype(np.uint64)
        _, firsts, inverse, occurrences = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        if length <= 4:
            row[Column.TOP_2GRAM + length - 2] = _commonest(places[firsts], occurrences, running, length)
        identity[places] = places[firsts][inverse]
        places = places[occurrences[inverse] > 1]
        if length >= 5:
            row[Column.DUPLICATE_5GRAMS + length - 5] = _repeated_characters(identity, places, running, length)


def _commonest(firsts: Positions, occurrences: Positions, running: Positions, length: int) -> int:
    """Characters in all occurrences of the commonest run, the first of several; spaces between tokens included."""
    best, most = 0, 1
    if len(firsts) and occurrences.max() > 1:
        most = int(occurrences.max())
        best = int(firsts[occurrences == most].min())
    return most * int(running[best + length] - running[best] + length - 1)


def _repeated_characters(identity: Positions, places: Positions, running: Positions, length: int) -> int:
    """Characters of runs seen before; the search goes on behind such a run, so none counts twice."""
    seen: set[int] = set()
    characters, free = 0, 0
    for place in places.tolist():
        if place < free:
            continue
        run = int(identity[place])
        if run in seen:
            characters += int(running[place + length] - running[place])
            free = place + length
        seen.add(run)
    return characters
