"""Measures of many texts at once: the figures that rules, spam, profanity and the quality score look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from tasks.quality.words import (
    Hashes,
    Positions,
    Words,
    contains,
    hash_spans,
    hash_vocabulary,
    hash_words,
    mix,
    sum_by_text,
)

Floats = npt.NDArray[np.float64]

#: Gopher's stop words (Rae et al. 2021): a text without two of them is hardly running English.
GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
#: Function words whose share tells running prose from lists and tables.
FUNCTION_WORDS = (
    "a about after all also an and any are as at be because been before but by can could did do does each for "
    "from had has have he her his how if in into is it its may more most no not of on one only or other our out "
    "over she should so some such than that the their them then there these they this those to two under until up "
    "was we were what when where which while who will with would you your"
)
_SHORT_LINE_CHARACTERS = 30
_TERMINAL_BYTES = np.zeros(256, np.bool_)
_TERMINAL_BYTES[list(b".!?\"':;")] = True


@dataclass(frozen=True)
class Measures:
    """One array per measure, [texts] each; shares are in 0..1, lengths in bytes of UTF-8."""

    words: Floats
    mean_word_length: Floats
    alphabetic_words: Floats
    stop_words: Floats
    function_words: Floats
    symbols_per_word: Floats
    letters: Floats
    bullet_lines: Floats
    ellipsis_lines: Floats
    terminal_lines: Floats
    short_lines: Floats
    mean_line_characters: Floats
    longest_line_characters: Floats
    duplicate_lines: Floats
    duplicate_line_characters: Floats
    top_2gram: Floats
    top_3gram: Floats
    top_4gram: Floats
    duplicate_5grams: Floats
    duplicate_10grams: Floats
    braces: Floats
    links_per_word: Floats
    profane_words: Floats
    spam_phrases: Floats

    def of(self, index: int) -> dict[str, float]:
        """All measures of one text."""
        return {field.name: float(getattr(self, field.name)[index]) for field in fields(self)}


def measure(texts: Sequence[str]) -> Measures:
    """Measure a batch of texts (see `tasks.quality.words.batches` for a good size)."""
    words = hash_words(texts)
    count = np.maximum(np.diff(words.first), 1).astype(np.float64)
    lengths = words.ends - words.starts
    word_characters = np.maximum(sum_by_text(lengths, words.first), 1)
    return Measures(
        words=np.diff(words.first).astype(np.float64),
        mean_word_length=word_characters / count,
        alphabetic_words=sum_by_text(_has_letter(words), words.first) / count,
        stop_words=_different(words.hashes, words.first, _stop_words()),
        function_words=sum_by_text(contains(_function_words(), words.hashes), words.first) / count,
        symbols_per_word=_symbols(words) / count,
        links_per_word=_occurrences(words, b"://") / count,
        profane_words=sum_by_text(contains(profane_words(), words.hashes), words.first),
        spam_phrases=_spam_phrases(words),
        braces=_bytes_equal(words, b"{"),
        letters=_letter_share(words),
        **_line_measures(words),
        **_repetition(words, lengths, word_characters),
    )


@cache
def _stop_words() -> Hashes:
    return hash_vocabulary(GOPHER_STOP_WORDS)


@cache
def _function_words() -> Hashes:
    return hash_vocabulary(FUNCTION_WORDS.split())


@cache
def profane_words() -> Hashes:
    """Hashes of the profane words that ship with the package."""
    return hash_vocabulary(_lines_of("profane_words.txt"))


@cache
def _spam_vocabulary() -> dict[int, Hashes]:
    """Phrase length in words -> sorted hashes of the phrases of that length."""
    phrases: dict[int, list[int]] = {}
    for phrase in _lines_of("spam_phrases.txt"):
        length = len(phrase.split())
        phrases.setdefault(length, []).append(int(hash_words([phrase]).ngrams(length)[0][0]))
    return {length: np.unique(np.array(hashes, np.uint64)) for length, hashes in sorted(phrases.items())}


def _lines_of(name: str) -> list[str]:
    text = resources.files("tasks.quality").joinpath(name).read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _count_positions(positions: Positions, words: Words) -> Floats:
    return np.diff(np.searchsorted(positions, words.offsets)).astype(np.float64)


def _bytes_equal(words: Words, byte: bytes) -> Floats:
    return _count_positions(np.flatnonzero(words.buffer == byte[0]), words)


def _occurrences(words: Words, pattern: bytes) -> Floats:
    """[texts] occurrences of a short byte string, overlapping ones included."""
    buffer = words.buffer
    length = max(len(buffer) - len(pattern) + 1, 0)
    found = np.ones(length, np.bool_)
    for step, byte in enumerate(pattern):
        found &= buffer[step : step + length] == byte
    return _count_positions(np.flatnonzero(found), words)


def _symbols(words: Words) -> Floats:
    return _bytes_equal(words, b"#") + _occurrences(words, b"...") + _occurrences(words, "…".encode())


def _letter_bytes(words: Words) -> npt.NDArray[np.bool_]:
    # The buffer is lower case; bytes of non-ASCII characters count as letters.
    is_letter: npt.NDArray[np.bool_] = ((words.buffer >= 97) & (words.buffer <= 122)) | (words.buffer >= 128)
    return is_letter


def _has_letter(words: Words) -> npt.NDArray[np.bool_]:
    running = np.concatenate(([0], np.cumsum(_letter_bytes(words))))
    has: npt.NDArray[np.bool_] = running[words.ends] > running[words.starts]
    return has


def _letter_share(words: Words) -> Floats:
    visible = sum_by_text(words.buffer > 32, words.offsets)
    return sum_by_text(_letter_bytes(words), words.offsets) / np.maximum(visible, 1)


def _different(hashes: Hashes, first: Positions, vocabulary: Hashes) -> Floats:
    """[texts] how many different members of the vocabulary occur."""
    total = np.zeros(len(first) - 1)
    for member in vocabulary:
        total += sum_by_text(hashes == member, first) > 0
    return total


def _spam_phrases(words: Words) -> Floats:
    total = np.zeros(len(words.first) - 1)
    for length, vocabulary in _spam_vocabulary().items():
        hashes, offsets = words.ngrams(length)
        places = np.flatnonzero(contains(vocabulary, hashes))
        if len(places):
            text = np.searchsorted(offsets, places, side="right") - 1
            pairs = np.unique(np.stack([text, hashes[places].view(np.int64)], axis=1), axis=0)
            total += np.bincount(pairs[:, 0], minlength=len(total))
    return total


def _line_measures(words: Words) -> dict[str, Floats]:
    """Measures over lines that are not blank, without the spaces around them."""
    buffer = words.buffer
    visible = np.flatnonzero(buffer > 32)
    breaks = np.flatnonzero(buffer == 10)
    line_begin = np.concatenate(([0], breaks[:-1] + 1)) if len(breaks) else np.zeros(0, np.int64)
    low, high = np.searchsorted(visible, line_begin), np.searchsorted(visible, breaks) - 1
    filled = low <= high
    starts, ends = visible[low[filled]], visible[high[filled]] + 1
    first = np.searchsorted(starts, words.offsets)
    count = np.maximum(np.diff(first), 1).astype(np.float64)
    lengths = (ends - starts).astype(np.float64)
    characters = np.maximum(sum_by_text(lengths, first), 1)
    text_of_line = np.repeat(np.arange(len(first) - 1), np.diff(first))
    again = _seen_before(hash_spans(buffer, starts, ends), text_of_line)
    return {
        "bullet_lines": sum_by_text(_starts_with_bullet(buffer, starts, ends), first) / count,
        "ellipsis_lines": sum_by_text(_ends_in_ellipsis(buffer, starts, ends), first) / count,
        "terminal_lines": sum_by_text(_TERMINAL_BYTES[buffer[ends - 1]], first) / count,
        "short_lines": sum_by_text(lengths <= _SHORT_LINE_CHARACTERS, first) / count,
        "mean_line_characters": characters / count,
        "longest_line_characters": _maximum_by_text(lengths, text_of_line, len(first) - 1),
        "duplicate_lines": sum_by_text(again, first) / count,
        "duplicate_line_characters": sum_by_text(lengths * again, first) / characters,
    }


def _starts_with_bullet(
    words_buffer: npt.NDArray[np.uint8], starts: Positions, ends: Positions
) -> npt.NDArray[np.bool_]:
    head = words_buffer[starts]
    second = words_buffer[np.minimum(starts + 1, ends - 1)]
    third = words_buffer[np.minimum(starts + 2, ends - 1)]
    plain = ((head == ord("-")) | (head == ord("*")) | (head == ord("+"))) & (second == 32)
    typographic = (head == 0xE2) & (second == 0x80) & (third == 0xA2)
    bullets: npt.NDArray[np.bool_] = plain | typographic
    return bullets


def _ends_in_ellipsis(buffer: npt.NDArray[np.uint8], starts: Positions, ends: Positions) -> npt.NDArray[np.bool_]:
    last, second, third = (buffer[np.maximum(ends - back, starts)] for back in (1, 2, 3))
    dots = (last == 46) & (second == 46) & (third == 46)
    typographic = (third == 0xE2) & (second == 0x80) & (last == 0xA6)
    ellipses: npt.NDArray[np.bool_] = dots | typographic
    return ellipses


def _maximum_by_text(values: Floats, text: Positions, texts: int) -> Floats:
    largest = np.zeros(texts)
    np.maximum.at(largest, text, values)
    return largest


def _within_text(hashes: Hashes, text: Positions) -> Hashes:
    """Make equal hashes of different texts differ."""
    distinct: Hashes = hashes ^ mix(text.astype(np.uint64) + np.uint64(1))
    return distinct


def _seen_before(hashes: Hashes, text: Positions) -> npt.NDArray[np.bool_]:
    """Which items equal an earlier one of the same text."""
    keys = _within_text(hashes, text)
    order = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), np.bool_)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return again


def _repetition(words: Words, lengths: Positions, word_characters: Floats) -> dict[str, Floats]:
    result = {f"top_{n}gram": _top_ngram_share(words, n, word_characters) for n in (2, 3, 4)}
    for n in (5, 10):
        result[f"duplicate_{n}grams"] = _duplicate_ngram_share(words, n, lengths, word_characters)
    return result


def _top_ngram_share(words: Words, length: int, word_characters: Floats) -> Floats:
    """Occurrences of the commonest run of words times its length, over all word characters."""
    share = np.zeros(len(words.first) - 1)
    starts = words.ngram_starts(length)
    if not len(starts):
        return share
    text = words.text_of_word[starts]
    keys = _within_text(words.ngrams(length)[0], text)
    order = np.argsort(keys, kind="stable")
    heads = np.flatnonzero(np.concatenate(([True], keys[order[1:]] != keys[order[:-1]])))
    counts = np.diff(np.concatenate((heads, [len(order)])))
    repeated = counts > 1
    head_words = starts[order[heads[repeated]]]
    characters = np.zeros(len(head_words), np.int64)
    for step in range(length):
        characters += words.ends[head_words + step] - words.starts[head_words + step]
    owner = words.text_of_word[head_words]
    np.maximum.at(share, owner, counts[repeated] * characters / word_characters[owner])
    return share


def _duplicate_ngram_share(words: Words, length: int, word_lengths: Positions, word_characters: Floats) -> Floats:
    """Share of word characters inside runs of words that the text had before."""
    starts = words.ngram_starts(length)
    again = starts[_seen_before(words.ngrams(length)[0], words.text_of_word[starts])]
    edges = np.zeros(len(words.hashes) + 1, np.int64)
    np.add.at(edges, again, 1)
    np.add.at(edges, again + length, -1)
    covered = np.cumsum(edges[:-1]) > 0
    return sum_by_text(word_lengths * covered, words.first) / word_characters
