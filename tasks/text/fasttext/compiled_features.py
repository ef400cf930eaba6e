"""The compiled loops behind `tasks.text.fasttext.features`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Bytes, Positions
from tasks.text.characters import TABLE_SIZE
from tasks.text.compiled_words import decode
from tasks.text.engine import compiled
from tasks.text.fasttext.tables import FNV_PRIME, FNV_SEED, INSIDE, MULTIBYTE, Tables, View, fnv_hash
from tasks.text.hashing import GOLDEN_GAMMA, WORD_BASE, Hashes, mix_one

_SEED, _PRIME = np.uint64(FNV_SEED), np.uint64(FNV_PRIME)
_LOW_32, _SIGN_BIT, _COUNT_PART = np.uint64(0xFFFFFFFF), np.uint64(0x80), np.uint64(0xFFFF)
_BIT_31, _16, _32, _ZERO, _ONE = np.uint64(1 << 31), np.uint64(16), np.uint64(32), np.uint64(0), np.uint64(1)
_2, _4, _56 = np.uint64(2), np.uint64(4), np.uint64(56)
_PAIRS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_NIBBLES, _BYTE_SUM = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
_OPENING, _CLOSING = np.uint8(ord("<")), np.uint8(ord(">"))
#: fastText's factor for runs of words.
RUN_FACTOR = np.uint64(116049371)
#: Only words of up to as many bytes are cached.
_LONGEST_CACHED_WORD = 64
#: Longer words than this have their n-grams listed one place at a time, in a few kilobytes.
_SHORT_WORD = 256
_LARGEST_INT32 = 2**31 - 1
_LABEL = np.frombuffer(b"__label__", np.uint8)
_END = np.frombuffer(b"</s>", np.uint8)
_END_HASH = np.uint64(fnv_hash(b"</s>"))
#: Rows worked on at a time for a long word.
_LONG_WORD_ROWS = 4096


class WordCache(NamedTuple):
    """Sums of the vectors of words seen before, in an open-addressing hash table that is cleared when full.

    keys: [slots, 2] 64-bit hash, and FNV hash (32 bits) | length (16) | vectors added up (16): two words
    never meet in all of these by chance. sums: [slots, dimension]; used: [1] slots taken.
    """

    keys: Hashes
    sums: npt.NDArray[np.int32]
    used: Positions


class Scratch(NamedTuple):
    """Room for one word's n-grams: rows, and text, firsts, values for the word's characters."""

    rows: Positions
    text: Bytes
    firsts: Positions
    values: Hashes


@compiled
def _new_scratch(tables: Tables) -> Scratch:
    return Scratch(
        np.empty(max(_LONG_WORD_ROWS, (_SHORT_WORD + 2) * tables.longest_ngram + 1), np.int64),
        np.empty(_SHORT_WORD + 2, np.uint8),
        np.empty(_SHORT_WORD + 4, np.int64),
        np.empty(_SHORT_WORD + 2, np.uint64),
    )


@compiled
def _extend(value: np.uint64, byte: np.uint8) -> np.uint64:
    """One step of fastText's hash, whose bytes are signed; only the low 32 bits of the result count."""
    return (value ^ ((np.uint64(byte) ^ _SIGN_BIT) - _SIGN_BIT)) * _PRIME


@compiled
def _letter_width(buffer: Bytes, place: np.int64, end: np.int64, letters: npt.NDArray[np.bool_]) -> np.int64:
    """Bytes of the character at `place`, negative if it is no letter."""
    code, width = decode(buffer, place, end)
    return width if 0 <= code < TABLE_SIZE and letters[code] else -width


@compiled
def _next_word(
    buffer: Bytes, place: np.int64, end: np.int64, kinds: npt.NDArray[np.uint8], letters: npt.NDArray[np.bool_]
) -> tuple[np.int64, np.int64, np.uint64, np.uint64]:
    """Start and end of the next word, its 64-bit hash and its FNV hash; it starts at `end` where there is none."""
    while place < end:
        kind, width = kinds[buffer[place]], np.int64(-1)
        if kind == MULTIBYTE:
            width = _letter_width(buffer, place, end, letters)
        if kind == INSIDE or width > 0:
            break
        place -= width
    first, key, value = place, _ZERO, _SEED
    while place < end:
        byte = buffer[place]
        kind = kinds[byte]
        if kind == INSIDE:
            key = (key + np.uint64(byte) + GOLDEN_GAMMA) * WORD_BASE
            value = _extend(value, byte)
            place += 1
            continue
        width = _letter_width(buffer, place, end, letters) if kind == MULTIBYTE else np.int64(-1)
        if width < 0:
            break
        for step in range(width):
            byte = buffer[place + step]
            key = (key + np.uint64(byte) + GOLDEN_GAMMA) * WORD_BASE
            value = _extend(value, byte)
        place += width
    return first, place, mix_one(key) | _ONE, value & _LOW_32


@compiled
def _equals_at(buffer: Bytes, start: np.int64, other: Bytes, first: np.int64, length: np.int64) -> bool:
    for step in range(length):  # noqa: SIM110 (numba compiles no generator here)
        if buffer[start + step] != other[first + step]:
            return False
    return True


@compiled
def _find_word(buffer: Bytes, start: np.int64, end: np.int64, value: np.uint64, tables: Tables) -> np.int64:
    """Index of a word in the vocabulary, or -1."""
    mask = len(tables.vocabulary) - 1
    slot = np.int64(value) & mask
    while tables.vocabulary[slot] >= 0:
        candidate = np.int64(tables.vocabulary[slot])
        first = tables.word_offsets[candidate]
        if tables.word_offsets[candidate + 1] - first == end - start and _equals_at(
            buffer, start, tables.word_bytes, first, end - start
        ):
            return candidate
        slot = (slot + 1) & mask
    return np.int64(-1)


@compiled
def _is_skipped(buffer: Bytes, start: np.int64, end: np.int64) -> bool:
    """Whether it is a literal end mark, or a label, which fastText does not take as words either."""
    if end - start == len(_END):
        return _equals_at(buffer, start, _END, np.int64(0), np.int64(len(_END)))
    return bool(end - start >= len(_LABEL)) and _equals_at(buffer, start, _LABEL, np.int64(0), np.int64(len(_LABEL)))


@compiled
def _count_bits(value: np.uint64) -> np.uint64:
    """Ones in a 64-bit number, added up in pairs, fours and bytes (Wilkes, Wheeler, Gill 1957)."""
    value = value - (value >> _ONE & _PAIRS)
    value = (value & _FOURS) + (value >> _2 & _FOURS)
    return ((value + (value >> _4)) & _NIBBLES) * _BYTE_SUM >> _56


@compiled
def _row_of_bucket(bucket: np.int64, tables: Tables) -> np.int64:
    row = np.int64(tables.words) + bucket
    if len(tables.kept):
        bits, place = tables.kept[bucket >> 6, 0], np.uint64(bucket & 63)
        row = np.int64(-1)
        if bits >> place & _ONE:
            before = _count_bits(bits & ((_ONE << place) - _ONE))
            row = np.int64(tables.words) + np.int64(tables.kept[bucket >> 6, 1] + before)
    return row


@compiled
def _ngram_rows(
    buffer: Bytes, start: np.int64, end: np.int64, begin: np.int64, tables: Tables, rows: Positions, count: np.int64
) -> tuple[np.int64, np.int64]:
    """Add the rows of the character n-grams of `<word>` that begin at `begin` or later until `rows` is nearly full.

    `start - 1` stands for the opening bracket, `end` for the closing one. Returns how many rows there
    are and where to go on, which is `end + 1` when all are done.
    """
    room = len(rows) - tables.longest_ngram - 1
    while begin <= end and count <= room:
        if start <= begin < end and buffer[begin] & 0xC0 == 0x80:
            begin += 1
            continue
        value, place, length = _SEED, begin, 1
        while place <= end and length <= tables.longest_ngram:
            byte = _OPENING if place < start else (_CLOSING if place == end else buffer[place])
            value = _extend(value, byte)
            place += 1
            while place < end and buffer[place] & 0xC0 == 0x80:
                value = _extend(value, buffer[place])
                place += 1
            is_bracket = length == 1 and (begin < start or place > end)
            if length >= tables.shortest_ngram and not is_bracket:
                rows[count] = _row_of_bucket(np.int64((value & _LOW_32) % np.uint64(tables.buckets)), tables)
                count += rows[count] >= 0
            length += 1
        begin += 1
    return count, begin


@compiled
def _short_ngram_rows(
    buffer: Bytes, start: np.int64, end: np.int64, tables: Tables, scratch: Scratch, count: np.int64
) -> np.int64:
    """All of `_ngram_rows` for a word of at most `_SHORT_WORD` bytes, one length for all places at a time."""
    text, firsts, values, rows = scratch.text, scratch.firsts, scratch.values, scratch.rows
    size, characters = end - start + 2, np.int64(1)
    text[0], text[size - 1], firsts[0] = _OPENING, _CLOSING, 0
    for place in range(1, size - 1):
        text[place] = buffer[start + place - 1]
        firsts[characters] = place
        characters += text[place] & 0xC0 != 0x80
    firsts[characters] = size - 1
    characters += 1
    firsts[characters] = size
    buckets = np.int64(tables.buckets)
    inverse = 1.0 / buckets
    values[:characters] = _SEED
    for length in range(1, min(np.int64(tables.longest_ngram), characters) + 1):
        last = characters - length + 1
        if characters == size:
            for place in range(last):
                values[place] = _extend(values[place], text[place + length - 1])
        else:
            for place in range(last):
                value = values[place]
                for step in range(firsts[place + length - 1], firsts[place + length]):
                    value = _extend(value, text[step])
                values[place] = value
        if length < tables.shortest_ngram:
            continue
        edge = 1 if length == 1 else 0
        for place in range(edge, last - edge):
            # A product with the inverse is many times faster than a division, and off by one at most.
            bucket = np.int64(values[place] & _LOW_32)
            bucket -= np.int64(bucket * inverse) * buckets
            bucket += buckets if bucket < 0 else (-buckets if bucket >= buckets else 0)
            if len(tables.kept) == 0:
                rows[count] = tables.words + bucket
                count += 1
            elif tables.kept[bucket >> 6, 0] >> np.uint64(bucket & 63) & _ONE:
                rows[count] = _row_of_bucket(bucket, tables)
                count += 1
    return count


@compiled
def _run_row(runs: Hashes, order: int, value: np.uint64, tables: Tables) -> np.int64:
    """Row of the run of words that begins `order` words ago, now that one more word has come."""
    signed = value | (~_LOW_32 if value & _BIT_31 else _ZERO)
    runs[order] = runs[order] * RUN_FACTOR + signed
    buckets = np.uint64(tables.buckets)
    if buckets & (buckets - _ONE) == _ZERO:  # our own models': no division
        return _row_of_bucket(np.int64(runs[order] & (buckets - _ONE)), tables)
    return _row_of_bucket(np.int64(runs[order] % buckets), tables)


@compiled
def _shift_runs(runs: Hashes, value: np.uint64) -> None:
    """Forget the oldest run and begin one with the last word; runs[i] began i + 1 words ago."""
    for order in range(len(runs) - 1, 0, -1):
        runs[order] = runs[order - 1]
    if len(runs):
        runs[0] = value | (~_LOW_32 if value & _BIT_31 else _ZERO)


@compiled
def _add_rows(tables: Tables, rows: Positions, count: np.int64, sums: Positions) -> None:
    for index in range(count):
        vector = tables.rows[rows[index]]
        for column in range(len(sums)):
            sums[column] += np.int64(vector[column])


@compiled
def _add_word(
    buffer: Bytes, start: np.int64, end: np.int64, value: np.uint64, tables: Tables, scratch: Scratch, sums: Positions
) -> np.int64:
    """Set `sums` to the sum of the vectors of a word and its n-grams; returns how many they are, -1 if skipped."""
    sums[:] = 0
    index = _find_word(buffer, start, end, value, tables)
    if _is_skipped(buffer, start, end) and (index < 0 or index == tables.end_row):
        return np.int64(-1)
    count, total = np.int64(0), np.int64(0)
    if index >= 0:
        scratch.rows[0], count = index, np.int64(1)
    begin = start - 1 if tables.buckets and tables.longest_ngram > 0 else end + 1
    if begin < start and end - start <= _SHORT_WORD:
        count, begin = _short_ngram_rows(buffer, start, end, tables, scratch, count), end + 1
    while True:
        if begin <= end:
            count, begin = _ngram_rows(buffer, start, end, begin, tables, scratch.rows, count)
        _add_rows(tables, scratch.rows, count, sums)
        total += count
        count = np.int64(0)
        if begin > end:
            return total


@compiled
def _remember(cache: WordCache, slot: np.int64, key: np.uint64, tag: np.uint64, sums: Positions) -> None:
    """Keep a word's sum; when the table is 5/8 full, forget all words first."""
    for column in range(len(sums)):
        if abs(sums[column]) > _LARGEST_INT32:
            return
    if cache.used[0] >= len(cache.keys) * 5 // 8:
        cache.keys[:] = _ZERO
        cache.used[0] = 0
        slot = np.int64(key & np.uint64(len(cache.keys) - 1))
    cache.keys[slot, 0], cache.keys[slot, 1] = key, tag
    for column in range(len(sums)):
        cache.sums[slot, column] = np.int32(sums[column])
    cache.used[0] += 1


@compiled
def sum_features(
    buffer: Bytes,
    offsets: Positions,
    view: View,
    tables: Tables,
    cache: WordCache,
    sums: Positions,
    counts: Positions,
    words: Positions,
) -> None:
    """Fill sums [texts, dimension], and the [texts] vectors added up and words seen, of each text."""
    scratch, word_sums = _new_scratch(tables), np.zeros(sums.shape[1], np.int64)
    rows = scratch.rows
    runs = np.zeros(tables.word_ngrams - 1 if tables.buckets and tables.word_ngrams > 1 else 0, np.uint64)
    mask = np.uint64(len(cache.keys) - 1)
    for text in range(len(offsets) - 1):
        text_sums, total, seen = sums[text], 0, 0
        text_sums[:] = 0
        end = offsets[text + 1]
        start, stop, key, value = _next_word(buffer, offsets[text], end, view.kinds, view.letters)
        while start < end:
            tag = value << _32 | np.uint64(min(int(stop - start), 0xFFFF)) << _16
            slot = np.int64(key & mask)
            while cache.keys[slot, 0] != _ZERO and (
                cache.keys[slot, 0] != key or cache.keys[slot, 1] & ~_COUNT_PART != tag
            ):
                slot = (slot + 1) & np.int64(mask)
            if cache.keys[slot, 0] != _ZERO and stop - start <= _LONGEST_CACHED_WORD:
                count = np.int64(cache.keys[slot, 1] & _COUNT_PART)
                vector = cache.sums[slot]
                for column in range(len(text_sums)):
                    text_sums[column] += np.int64(vector[column])
            else:
                count = _add_word(buffer, start, stop, value, tables, scratch, word_sums)
                for column in range(len(text_sums)):
                    text_sums[column] += word_sums[column]
                if 0 <= count <= 0xFFFF and stop - start <= _LONGEST_CACHED_WORD:
                    _remember(cache, slot, key, tag | np.uint64(count), word_sums)
            if count >= 0:
                total += int(count)
                if len(runs):
                    for order in range(min(seen, len(runs))):
                        rows[0] = _run_row(runs, order, value, tables)
                        if rows[0] >= 0:
                            _add_rows(tables, rows, np.int64(1), text_sums)
                            total += 1
                    _shift_runs(runs, value)
                seen += 1
            start, stop, key, value = _next_word(buffer, stop, end, view.kinds, view.letters)
        if tables.end_row >= 0:
            rows[0] = tables.end_row
            _add_rows(tables, rows, np.int64(1), text_sums)
            total += 1
        for order in range(min(seen, len(runs))):
            rows[0] = _run_row(runs, order, _END_HASH, tables)
            if rows[0] >= 0:
                _add_rows(tables, rows, np.int64(1), text_sums)
                total += 1
        counts[text], words[text] = total, seen


@compiled
def dot_products(
    hidden: npt.NDArray[np.float64], vectors: npt.NDArray[np.float64], products: npt.NDArray[np.float64]
) -> None:
    """Fill products [texts, labels] = hidden [texts, dimension] times vectors [dimension, labels], summed in order.

    Unlike a BLAS product, it does not depend on the neighbours of a text or on the machine.
    """
    for text in range(len(hidden)):
        row = products[text]
        row[:] = 0.0
        for column in range(vectors.shape[0]):
            factor, vector = hidden[text, column], vectors[column]
            for label in range(len(row)):
                row[label] += factor * vector[label]


@compiled
def list_features(
    buffer: Bytes, offsets: Positions, view: View, tables: Tables, found: npt.NDArray[np.int32], first: Positions
) -> np.int64:
    """Fill `found` with the rows of all features of each text and first [texts + 1]; returns how many there are.

    An empty `found` only counts them.
    """
    rows = np.empty(_LONG_WORD_ROWS, np.int64)
    runs = np.zeros(tables.word_ngrams - 1 if tables.buckets and tables.word_ngrams > 1 else 0, np.uint64)
    total = np.int64(0)
    for text in range(len(offsets) - 1):
        first[text] = total
        seen, end = 0, offsets[text + 1]
        start, stop, _, value = _next_word(buffer, offsets[text], end, view.kinds, view.letters)
        is_end = False
        while not is_end:
            is_end = start >= end
            count = np.int64(0)
            if is_end:
                value = _END_HASH
                index = np.int64(tables.end_row)
            else:
                index = _find_word(buffer, start, stop, value, tables)
                if _is_skipped(buffer, start, stop) and (index < 0 or index == tables.end_row):
                    start, stop, _, value = _next_word(buffer, stop, end, view.kinds, view.letters)
                    continue
            if index >= 0:
                rows[0], count = index, np.int64(1)
            for order in range(min(seen, len(runs))):
                rows[count] = _run_row(runs, order, value, tables)
                if rows[count] >= 0:
                    count += 1
            _shift_runs(runs, value)
            seen += 1
            begin = start - 1 if tables.buckets and tables.longest_ngram > 0 and not is_end else stop + 1
            while True:
                count, begin = _ngram_rows(buffer, start, stop, begin, tables, rows, count)
                if len(found):
                    for place in range(count):
                        found[total + place] = np.int32(rows[place])
                total += int(count)
                count = np.int64(0)
                if begin > stop:
                    break
            if not is_end:
                start, stop, _, value = _next_word(buffer, stop, end, view.kinds, view.letters)
    first[len(offsets) - 1] = total
    return total
