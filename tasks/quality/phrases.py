"""Profane words and sales phrases of many texts: how many words are profane, how many different phrases occur."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from tasks.text.batch import Positions, TextBatch
from tasks.text.characters import TABLE_SIZE, WORD, character_classes
from tasks.text.scanning import Joined

_DIRECTORY = Path(__file__).parent
#: Between the words of a phrase: spaces, line ends, hyphens, typographic punctuation; never the block separator.
_BETWEEN_WORDS = rb"[^0-9A-Za-z_\xff]{1,4}"
_LONGEST_PHRASE_BYTES = 96


@cache
def profane_words() -> tuple[str, ...]:
    """The profane words, lower case."""
    return _lines_of("profane_words.txt")


@cache
def spam_phrases() -> tuple[str, ...]:
    """The sales phrases, lower case, words separated by one space."""
    return _lines_of("spam_phrases.txt")


def _lines_of(name: str) -> tuple[str, ...]:
    lines = (_DIRECTORY / name).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


@cache
def phrase_patterns() -> tuple[bytes, ...]:
    """Patterns (to be used without regard to case) of all profane words, then of all phrases."""
    entries = (*profane_words(), *spam_phrases())
    return tuple(rb"\b" + _BETWEEN_WORDS.join(map(re.escape, entry.encode().split())) + rb"\b" for entry in entries)


@cache
def _compiled() -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in phrase_patterns())


def count_whole(batch: TextBatch) -> tuple[Positions, Positions]:
    """[texts] profane words and [texts] different phrases, by searching every text with `re`."""
    profane, phrases = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    words = len(profane_words())
    first_words = [entry.split()[0].encode() for entry in (*profane_words(), *spam_phrases())]
    for row in range(len(batch)):
        data = batch.buffer[batch.offsets[row] : batch.offsets[row + 1]].tobytes()
        lower = data.lower()
        for index, first_word in enumerate(first_words):
            if first_word not in lower:
                continue
            found = sum(_stands_alone(data, *match.span()) for match in _compiled()[index].finditer(data))
            if index < words:
                profane[row] += found
            else:
                phrases[row] += found > 0
    return profane, phrases


def count_events(block: Joined, patterns: Positions, ends: Positions, profane: Positions, phrases: Positions) -> None:
    """Add what a pass found (indices into `phrase_patterns` and ends in the block) to both counts, [texts] each."""
    seen: set[tuple[int, int]] = set()
    words = len(profane_words())
    for pattern, end, row in zip(patterns.tolist(), ends.tolist(), block.rows(ends - 1).tolist(), strict=True):
        start = _start_of(block.data, pattern, end)
        if not _stands_alone(block.data, start, end):
            continue
        if pattern < words:
            profane[row] += 1
        elif (row, pattern) not in seen:
            seen.add((row, pattern))
            phrases[row] += 1


def _start_of(data: bytes, pattern: int, end: int) -> int:
    """Where a match that ends at `end` begins: the last start from which the pattern reaches `end`."""
    if pattern < len(profane_words()):
        return end - len(profane_words()[pattern])
    expression = _compiled()[pattern]
    first_word = spam_phrases()[pattern - len(profane_words())].split()[0].encode()
    window = max(0, end - _LONGEST_PHRASE_BYTES)
    place = data[window:end].lower().rfind(first_word)
    while place >= 0:
        match = expression.match(data, window + place)
        if match is not None and match.end() == end:
            return match.start()
        place = data[window:end].lower().rfind(first_word, 0, place)
    raise AssertionError(f"{expression.pattern!r} does not end at {end}")


def _stands_alone(data: bytes, start: int, end: int) -> bool:
    """Whether no letter of another script touches the match (the patterns know ASCII letters only)."""
    before, after = data[max(0, start - 4) : start], data[end : end + 4]
    if before[-1:] >= b"\x80" and _is_word(_decoded(before[-width:] for width in (2, 3, 4))):
        return False
    return not (after[:1] >= b"\x80" and _is_word(_decoded(after[:width] for width in (2, 3, 4))))


def _decoded(pieces: Iterable[bytes]) -> str:
    """The one character that the first valid piece is; nothing when none is."""
    for piece in pieces:
        try:
            character = piece.decode()
        except UnicodeDecodeError:
            continue
        return character if len(character) == 1 else ""
    return ""


def _is_word(character: str) -> bool:
    return bool(character) and ord(character) < TABLE_SIZE and bool(character_classes()[ord(character)] & WORD)
