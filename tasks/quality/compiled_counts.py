"""Compiled loops behind `tasks.quality.measures`: lines, paragraphs and repetition of one text after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.quality.character_kinds import BRACKET, BREAK, COUNTED, LETTER, PHRASE, SENTENCE_END, SPACE, Kinds
from tasks.quality.compiled_tokens import (
    T_END,
    T_FIRST,
    T_LETTER,
    T_LONG,
    T_PUNCTUATION,
    T_SYMBOL,
    Codes,
    decode_text,
    split_tokens,
)
from tasks.quality.counts import (
    CITATIONS,
    FEWEST_LINE_WORDS,
    FUNCTION_BIT,
    JAVASCRIPT,
    LOREM,
    PHRASES,
    POLICY,
    SHORT_LINE,
    STOP_BITS,
    Column,
    Counts,
    LineFilter,
)
from tasks.text.batch import Bytes, Positions
from tasks.text.engine import compiled, compiled_inline
from tasks.text.hashing import GOLDEN_GAMMA, RUN_BASE, WORD_BASE, Hashes, mix_one

Slots = npt.NDArray[np.uint64]

_ONE = np.uint64(1)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_NEWLINE = 0x0A
_PARAGRAPH = np.uint64(0x9FB21C651E98DF25)
_NONE, _CLOSED = int(LineFilter.NONE), int(LineFilter.C4_CLOSED)
_TOP, _DUPLICATE = int(Column.TOP_2GRAM) - 2, int(Column.DUPLICATE_5GRAMS) - 5
(
    _CHARACTERS, _TOKENS, _WORDS, _WORD_CHARACTERS, _LETTER_TOKENS, _STOP_WORDS, _FUNCTION_WORDS, _HASHES, _ELLIPSES,
    _LINES, _BULLET_LINES, _ELLIPSIS_LINES, _FULL_LINES, _DUPLICATE_LINES, _DUPLICATE_LINE_CHARACTERS, _PARAGRAPHS,
    _DUPLICATE_PARAGRAPHS, _DUPLICATE_PARAGRAPH_CHARACTERS, _KEPT_LINES, _KEPT_CHARACTERS, _KEPT_SHORT_LINES,
    _KEPT_CLOSED_LINES, _KEPT_DUPLICATE_CHARACTERS, _KEPT_TOKENS, _SENTENCES, _LONGEST_LINE, _LOREM_LINES,
    _BRACE_LINES, _LETTERS, _VISIBLE, _LINKS,
) = range(31)  # fmt: skip


def _matrix(texts: Sequence[bytes]) -> Bytes:
    """[texts, longest] the bytes, padded with zeros."""
    matrix = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = list(text)
    return matrix


_MARK_BYTES = _matrix(CITATIONS)
_MARK_LENGTHS = np.array([len(mark) for mark in CITATIONS], np.int64)
_PHRASE_BYTES = _matrix([phrase for phrase, _, _ in PHRASES])
_PHRASE_LENGTHS = np.array([len(phrase) for phrase, _, _ in PHRASES], np.int64)
_PHRASE_ANCHORS = np.array([anchor for _, anchor, _ in PHRASES], np.int64)
_PHRASE_BITS = np.array([bit for _, _, bit in PHRASES], np.int64)


@compiled_inline
def find_or_add(slots: Slots, shift: np.uint64, generation: int, key: np.uint64, value: int) -> int:
    """The value under a key in an open-addressing table, after adding it where the key is new.

    slots: [capacity, 2] key, and generation << 32 | value; entries of other generations are free. Only
    the first 2 ** (64 - shift) slots are used.
    """
    place = np.int64((key * GOLDEN_GAMMA) >> shift)
    last = np.int64((np.uint64(1) << (np.uint64(64) - shift)) - np.uint64(1))
    stamp = np.uint64(generation)
    entry = slots[place, 1]
    while entry >> _32 == stamp and slots[place, 0] != key:
        place = (place + 1) & last
        entry = slots[place, 1]
    found: Any = value
    if entry >> _32 == stamp:
        found = np.int64(entry & _LOW)
    else:
        slots[place, 0] = key
        slots[place, 1] = stamp << _32 | np.uint64(value)
    return found  # type: ignore[no-any-return]


@compiled
def _shift_for(items: int) -> np.uint64:
    """The shift that leaves room for twice the items."""
    shift = np.uint64(60)
    while (1 << (64 - np.int64(shift))) < 2 * items:
        shift -= _ONE
    return shift


@compiled
def _count_characters(codes: Codes, kinds: Kinds, characters: int, row: Counts) -> int:
    """Letters, visible characters and marks; returns the line breaks."""
    letters, spaces, breaks, ellipses, hashes, links = 0, 0, 0, 0, 0, 0
    dots, last_dot = 0, -2
    for place in range(characters):
        kind = kinds[place]
        spaces += kind & SPACE != 0
        breaks += kind & BREAK != 0
        letters += kind & LETTER != 0
        if kind & COUNTED:
            code = codes[place]
            if code == 0x2E:
                dots = dots + 1 if last_dot == place - 1 else 1
                last_dot = place
                if dots == 3:
                    ellipses += 1
                    dots = 0
            elif code == 0x3A:
                links += place + 2 < characters and codes[place + 1] == 0x2F and codes[place + 2] == 0x2F
            elif code == 0x2026:
                ellipses += 1
            else:
                hashes += 1
    row[_LETTERS], row[_VISIBLE] = letters, characters - spaces
    row[_HASHES], row[_ELLIPSES], row[_LINKS] = hashes, ellipses, links
    return breaks


@compiled
def _span_value(codes: Codes, start: int, end: int) -> np.uint64:
    value = np.uint64(0)
    for place in range(start, end):
        value = value * WORD_BASE + (np.uint64(codes[place]) + _ONE) * GOLDEN_GAMMA
    return value


@compiled
def _count_paragraphs(
    codes: Codes, kinds: Kinds, characters: int, breaks: int, slots: Slots, generation: int, row: Counts
) -> int:
    """Lines and paragraphs as Gopher's repetition rules see them; returns the next free generation.

    Lines are those of the whole text; paragraphs, which a blank line ends, are those of the text
    without the spaces around it.
    """
    if characters == 0:
        return generation
    first, last = 0, characters
    while first < last and kinds[first] & SPACE:
        first += 1
    while last > first and kinds[last - 1] & SPACE:
        last -= 1
    shift = _shift_for(2 * breaks + 2)
    start, paragraph, paragraph_value = 0, first, np.uint64(0)
    while start < characters:
        value = np.uint64(0)
        end = start
        while end < characters and codes[end] != _NEWLINE:
            value = value * WORD_BASE + (np.uint64(codes[end]) + _ONE) * GOLDEN_GAMMA
            end += 1
        if end > start:
            row[_FULL_LINES] += 1
            if find_or_add(slots, shift, generation, value, start) != start:
                row[_DUPLICATE_LINES] += 1
                row[_DUPLICATE_LINE_CHARACTERS] += end - start
        if start < last and end > first:
            inner_start, inner_end = max(start, first), min(end, last)
            if inner_start != start or inner_end != end:
                value = _span_value(codes, inner_start, inner_end)
            if end > start:
                paragraph_value = paragraph_value * RUN_BASE + mix_one(value) + _ONE
            if end > start and (end >= last or codes[end + 1] == _NEWLINE):
                row[_PARAGRAPHS] += 1
                # Lines and paragraphs share the table, so a paragraph's key must not be a line's.
                if find_or_add(slots, shift, generation, paragraph_value ^ _PARAGRAPH, paragraph) != paragraph:
                    row[_DUPLICATE_PARAGRAPHS] += 1
                    row[_DUPLICATE_PARAGRAPH_CHARACTERS] += inner_end - paragraph
                paragraph_value = np.uint64(0)
                paragraph = -1
        start = end + 1
        if paragraph < 0 and start < last and codes[start] != _NEWLINE:
            paragraph = start
    # Splitting at line feeds leaves an empty string before a leading and after a trailing one.
    edges = np.int64(codes[0] == _NEWLINE) + np.int64(codes[characters - 1] == _NEWLINE)
    row[_FULL_LINES] += edges
    row[_DUPLICATE_LINES] += edges == 2
    return generation + 1


@compiled
def _citation_end(codes: Codes, place: int, end: int) -> int:
    """Where the citation mark that begins at `place` ends; `place` without one."""
    stop = place + 1
    while stop < end and 0x30 <= codes[stop] <= 0x39:
        stop += 1
    if stop < end and codes[stop] == 0x5D:
        return stop + 1
    for mark in range(len(_MARK_LENGTHS)):
        length: int = _MARK_LENGTHS[mark]
        if place + length <= end:
            step = 0
            while step < length and codes[place + step] == _MARK_BYTES[mark, step]:
                step += 1
            if step == length:
                return place + length
    return place


@compiled
def _last_kept(codes: Codes, start: int, end: int) -> tuple[int, int, int]:
    """Places of the last three characters outside citation marks; -1 where there are fewer."""
    last, second, third = -1, -1, -1
    place = start
    while place < end:
        following = _citation_end(codes, place, end) if codes[place] == 0x5B else place
        if following == place:
            third, second, last = second, last, place
            following += 1
        place = following
    return last, second, third


@compiled
def _phrase_at(codes: Codes, place: int, start: int, end: int) -> int:
    """Bits of C4's phrases whose rare letter stands at `place`."""
    before = codes[place - 1] | 0x20 if place > start else 0
    after = codes[place + 1] | 0x20 if place + 1 < end else 0
    # The letters beside it in "javascript", "ipsum", "privacy", "cookie" and "of use".
    if after != 0x61 and (before != 0x69 or after != 0x73) and (before != 0x6F or (after != 0x69 and after != 0x20)):
        return 0
    found = 0
    for phrase in range(len(_PHRASE_LENGTHS)):
        first, length = place - _PHRASE_ANCHORS[phrase], _PHRASE_LENGTHS[phrase]
        if first < start or first + length > end:
            continue
        step = 0
        while step < length:
            code = codes[first + step]
            if 0x41 <= code <= 0x5A:
                code |= 0x20
            if code != _PHRASE_BYTES[phrase, step]:
                break
            step += 1
        if step == length:
            found |= _PHRASE_BITS[phrase]
    return found


@compiled
def _count_lines(
    codes: Codes,
    kinds: Kinds,
    characters: int,
    breaks: int,
    starts: Codes,
    bits: Bytes,
    tokens: int,
    line_filter: int,
    slots: Slots,
    generation: int,
    row: Counts,
) -> int:
    """Lines as `str.splitlines` makes them, and what C4's filter keeps of them; returns the next generation."""
    shift = _shift_for(breaks + 1)
    # Not plain zeros: numba would compile what they are given to for the constant 0 as well.
    start: Any = np.int64(0)
    token: Any = np.int64(0)
    while start < characters:
        end = start
        while end < characters and kinds[end] & BREAK == 0:
            end += 1
        following = end + 1
        if end + 1 < characters and codes[end] == 0x0D and codes[end + 1] == _NEWLINE:
            following += 1
        first_token = token
        while token < tokens and starts[token] < following:
            token += 1
        _count_line(codes, kinds, start, end, bits, first_token, token, line_filter, slots, shift, generation, row)
        start = following
    return generation + 1


@compiled
def _count_line(
    codes: Codes,
    kinds: Kinds,
    start: int,
    end: int,
    bits: Bytes,
    first_token: int,
    last_token: int,
    line_filter: int,
    slots: Slots,
    shift: np.uint64,
    generation: int,
    row: Counts,
) -> None:
    row[_LINES] += 1
    line = start
    while start < end and kinds[start] & SPACE:
        start += 1
    while end > start and kinds[end - 1] & SPACE:
        end -= 1
    if start == end:
        return
    if codes[start] == 0x2D or codes[start] == 0x2022:
        row[_BULLET_LINES] += 1
    if codes[end - 1] == 0x2026 or (
        end - start >= 3 and codes[end - 1] == 0x2E and codes[end - 2] == 0x2E and codes[end - 3] == 0x2E
    ):
        row[_ELLIPSIS_LINES] += 1
    if line_filter != _NONE:
        words = 0
        for token in range(first_token, last_token):
            words += bits[token] & T_FIRST != 0
            if bits[token] & T_LONG:
                return
        if words < FEWEST_LINE_WORDS:
            return
    value = np.uint64(0)
    phrases = 0
    brace = False
    cut, left_out = start, 0
    for place in range(start, end):
        code, kind = codes[place], kinds[place]
        if kind & (PHRASE | BRACKET):
            if code == 0x5B and line_filter != _NONE and place >= cut:
                cut = _citation_end(codes, place, end)
                left_out += cut - place
            if place >= cut:
                if kind & PHRASE:
                    phrases |= _phrase_at(codes, place, start, end)
                brace |= code == 0x7B
        if place >= cut:
            value = value * WORD_BASE + (np.uint64(code) + _ONE) * GOLDEN_GAMMA
    length = end - start - left_out
    last, second, third = end - 1, end - 2, end - 3
    if left_out:
        last, second, third = _last_kept(codes, start, end)
    last_code = codes[last] if last >= start else 0
    if line_filter == _CLOSED:
        closed = last_code == 0x2E or last_code == 0x3F or last_code == 0x21 or last_code == 0x22
        if not closed and last_code != 0x27:
            return
        if third >= start and last_code == 0x2E and codes[second] == 0x2E and codes[third] == 0x2E:
            return
    row[_LOREM_LINES] += phrases & LOREM != 0
    if line_filter != _NONE and phrases & LOREM == 0 and phrases & JAVASCRIPT:
        return
    row[_BRACE_LINES] += brace
    if line_filter != _NONE and phrases & POLICY:
        return
    row[_KEPT_LINES] += 1
    row[_KEPT_CHARACTERS] += length
    row[_KEPT_SHORT_LINES] += length <= SHORT_LINE
    row[_KEPT_CLOSED_LINES] += last >= start and kinds[last] & SENTENCE_END != 0
    row[_LONGEST_LINE] = max(row[_LONGEST_LINE], length)
    row[_KEPT_TOKENS] += last_token - first_token
    row[_SENTENCES] += _sentences(bits, first_token, last_token)
    if find_or_add(slots, shift, generation, value, line) != line:
        row[_KEPT_DUPLICATE_CHARACTERS] += length


@compiled
def _sentences(bits: Bytes, first: int, last: int) -> int:
    """Sentences by spaCy's rule: one begins at the first word after a sentence end."""
    count = 1 if last > first else 0
    ended = False
    for token in range(first, last):
        if bits[token] & T_END:
            ended = True
        elif ended and bits[token] & T_PUNCTUATION == 0:
            count += 1
            ended = False
    return count


@compiled
def _count_tokens(
    starts: Codes,
    ends: Codes,
    hashes: Hashes,
    bits: Bytes,
    tokens: int,
    vocabulary: Hashes,
    meanings: Bytes,
    row: Counts,
) -> None:
    """vocabulary, meanings: [capacity] open-addressing table of token hashes (0 is free)."""
    mask = len(vocabulary) - 1
    seen: Any = 0
    for token in range(tokens):
        if bits[token] & T_SYMBOL == 0:
            row[_WORDS] += 1
            row[_WORD_CHARACTERS] += ends[token] - starts[token]
        row[_LETTER_TOKENS] += bits[token] & T_LETTER != 0
        place = np.int64(hashes[token]) & mask
        while vocabulary[place] != 0:
            if vocabulary[place] == hashes[token]:
                row[_FUNCTION_WORDS] += meanings[place] & FUNCTION_BIT != 0
                if meanings[place] & STOP_BITS:
                    seen |= 1 << np.int64(meanings[place] & STOP_BITS)
                break
            place = (place + 1) & mask
    while seen:
        row[_STOP_WORDS] += seen & 1
        seen >>= 1


@compiled
def _count_repetition(
    starts: Codes,
    ends: Codes,
    hashes: Hashes,
    tokens: int,
    slots: Slots,
    generation: int,
    identity: Positions,
    occurrences: Positions,
    candidates: Positions,
    running: Positions,
    row: Counts,
) -> int:
    """Commonest and repeated runs of tokens; returns the next free generation.

    A run is known by the place where it occurred first (`identity`). Runs of n + 1 tokens are pairs
    of overlapping runs of n, and can only repeat where both do, so the later rounds look at few.
    """
    running[0] = 0
    for token in range(tokens):
        running[token + 1] = running[token] + ends[token] - starts[token]
    count = max(tokens - 1, 0)
    shift = _shift_for(count)
    for place in range(count):
        occurrences[place] = 0
    for place in range(count):
        found = find_or_add(slots, shift, generation, hashes[place] * RUN_BASE + hashes[place + 1], place)
        identity[place] = found
        occurrences[found] += 1
        candidates[place] = place
    generation += 1
    for length in range(2, 11):
        if length > tokens:
            break
        if length > 2:
            count = _longer_runs(slots, generation, identity, occurrences, candidates, count)
            generation += 1
        if length <= 4:
            row[_TOP + length] = _commonest(identity, occurrences, candidates, running, count, length)
        count = _repeated(identity, occurrences, candidates, count)
        if length >= 5:
            shift = _shift_for(count)
            row[_DUPLICATE + length] = _duplicates(
                slots, shift, generation, identity, candidates, running, count, length
            )
            generation += 1
    return generation


@compiled
def _longer_runs(
    slots: Slots, generation: int, identity: Positions, occurrences: Positions, candidates: Positions, count: int
) -> int:
    """Turn repeated runs into runs one token longer, in place; returns how many there are."""
    shift = _shift_for(count)
    longer = 0
    for index in range(count - 1):
        place = candidates[index]
        if candidates[index + 1] != place + 1:
            continue
        key = np.uint64(identity[place]) << _32 | np.uint64(identity[place + 1])
        found = find_or_add(slots, shift, generation, key, place)
        identity[place] = found
        if found == place:
            occurrences[place] = 1
        else:
            occurrences[found] += 1
        candidates[longer] = place
        longer += 1
    return longer


@compiled
def _repeated(identity: Positions, occurrences: Positions, candidates: Positions, count: int) -> int:
    """Keep the candidates that occur more than once; returns how many."""
    kept = 0
    for index in range(count):
        place = candidates[index]
        if occurrences[identity[place]] > 1:
            candidates[kept] = place
            kept += 1
    return kept


@compiled
def _commonest(
    identity: Positions, occurrences: Positions, candidates: Positions, running: Positions, count: int, length: int
) -> int:
    """Characters in all occurrences of the commonest run (the first of several), spaces between tokens included."""
    best = 0
    most = 1
    for index in range(count):
        place = candidates[index]
        if identity[place] == place and occurrences[place] > most:
            best, most = int(place), int(occurrences[place])
    return most * int(running[best + length] - running[best] + length - 1)


@compiled
def _duplicates(
    slots: Slots,
    shift: np.uint64,
    generation: int,
    identity: Positions,
    candidates: Positions,
    running: Positions,
    count: int,
    length: int,
) -> int:
    """Characters of runs seen before; the search goes on behind such a run, so none counts twice."""
    characters = 0
    free = 0
    for index in range(count):
        place = candidates[index]
        if place < free:
            continue
        if find_or_add(slots, shift, generation, np.uint64(identity[place]), place) != place:
            characters += int(running[place + length] - running[place])
            free = int(place) + length
    return characters


@compiled
def count_texts(
    buffer: Bytes,
    offsets: Positions,
    line_filters: Bytes,
    table: Kinds,
    vocabulary: Hashes,
    meanings: Bytes,
    codes: Codes,
    kinds: Kinds,
    starts: Codes,
    ends: Codes,
    hashes: Hashes,
    bits: Bytes,
    slots: Slots,
    positions: Positions,
    generation: int,
    counts: Counts,
) -> int:
    """Fill `counts` [texts, columns], which must be zero; returns the next free generation of `slots`.

    codes to bits: [characters of the longest text]; positions: [4, characters + 1]; slots: a power of
    two of at least twice the characters.
    """
    for text in range(len(offsets) - 1):
        row = counts[text]
        characters = decode_text(buffer, offsets[text], offsets[text + 1], table, codes, kinds)
        tokens = split_tokens(codes, kinds, characters, starts, ends, hashes, bits)
        row[_CHARACTERS], row[_TOKENS] = characters, tokens
        breaks = _count_characters(codes, kinds, characters, row)
        _count_tokens(starts, ends, hashes, bits, tokens, vocabulary, meanings, row)
        generation = _count_paragraphs(codes, kinds, characters, breaks, slots, generation, row)
        generation = _count_lines(
            codes, kinds, characters, breaks, starts, bits, tokens, line_filters[text], slots, generation, row
        )
        generation = _count_repetition(
            starts, ends, hashes, tokens, slots, generation, positions[0], positions[1], positions[2], positions[3], row
        )
    return generation
