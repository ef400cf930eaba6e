"""What fastText adds up for a text: the rows of its words, of their character n-grams and of runs of words.

The rules are fastText's (`Dictionary::getLine`, version 0.9.2) for a text on one line: words lie between
white space, `</s>` ends the text. Two differences: line ends are white space, so a document is one text,
and a literal `</s>` is left out, where fastText would not read on, so that nothing in a text can hide the
rest of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.text.batch import Bytes, Positions, TextBatch
from tasks.text.characters import TABLE_SIZE
from tasks.text.engine import Engine, engine
from tasks.text.fasttext import compiled_features
from tasks.text.fasttext.compiled_features import RUN_FACTOR, WordCache
from tasks.text.fasttext.format import END_OF_TEXT, LABEL_PREFIX
from tasks.text.fasttext.tables import FNV_PRIME, FNV_SEED, INSIDE, MULTIBYTE, Tables, View, fnv_hash
from tasks.text.hashing import Hashes
from tasks.text.words import decode_characters

#: What a model's word cache takes at most; lid.176 measured no faster with more.
_CACHE_BYTES = 32 << 20
#: numpy's counterpart works on this many n-grams, and on this many numbers of vectors, at a time.
_BLOCK_NGRAMS = 1 << 17
_BLOCK_NUMBERS = 1 << 21
#: Characters of more bytes than UTF-8 has (stray continuation bytes) are hashed by a plain loop.
_LONGEST_CHARACTER = 8
_ONE = np.uint64(1)
_LOW_32 = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class FeatureSums:
    """sums: [texts, dimension] in fixed point; counts: [texts] vectors added up; words: [texts] words seen."""

    sums: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


def new_cache(dimension: int) -> WordCache:
    """An empty cache (21 MB, once filled, for the 16 dimensions of lid.176)."""
    slots = 1 << max(6, (_CACHE_BYTES // (16 + 4 * dimension)).bit_length() - 1)
    return WordCache(np.zeros((slots, 2), np.uint64), np.zeros((slots, dimension), np.int32), np.zeros(1, np.int64))


def sum_features(batch: TextBatch, view: View, tables: Tables, cache: WordCache) -> FeatureSums:
    """Add up the vectors of each text's features."""
    result = FeatureSums(
        np.zeros((len(batch), tables.rows.shape[1]), np.int64),
        np.zeros(len(batch), np.int64),
        np.zeros(len(batch), np.int64),
    )
    if engine() is Engine.NUMPY:
        for start, part in batch.parts():
            chosen = slice(start, start + len(part))
            _sum_by_numpy(part, view, tables, result.sums[chosen], result.counts[chosen], result.words[chosen])
        return result
    compiled_features.sum_features(
        batch.buffer, batch.offsets, view, tables, cache, result.sums, result.counts, result.words
    )
    return result


def list_features(batch: TextBatch, view: View, tables: Tables) -> tuple[npt.NDArray[np.int32], Positions]:
    """Rows of each text's features in ascending order, and [texts + 1] where each text's begin."""
    first = np.zeros(len(batch) + 1, np.int64)
    if engine() is Engine.NUMPY:
        rows, texts = _list_by_numpy(batch, view, tables)
        first[1:] = np.cumsum(np.bincount(texts, minlength=len(batch)))
    else:
        nothing = np.zeros(0, np.int32)
        total = compiled_features.list_features(batch.buffer, batch.offsets, view, tables, nothing, first)
        found = np.empty(total, np.int32)
        if total:
            compiled_features.list_features(batch.buffer, batch.offsets, view, tables, found, first)
        rows, texts = found.astype(np.int64), np.repeat(np.arange(len(batch)), np.diff(first))
    in_order = np.sort(texts << 32 | rows)
    return (in_order & 0x7FFFFFFF).astype(np.int32), first


@dataclass(frozen=True)
class _Words:
    """The words of a batch that count. text, index (in the vocabulary, or -1), value (FNV hash): [words]."""

    batch: TextBatch
    starts: Positions
    ends: Positions
    text: Positions
    index: npt.NDArray[np.int64]


def _sum_by_numpy(
    batch: TextBatch, view: View, tables: Tables, sums: Positions, counts: Positions, words: Positions
) -> None:
    found = _find_words(batch, view, tables)
    words += np.bincount(found.text, minlength=len(batch))
    block = max(1, _BLOCK_NUMBERS // max(1, sums.shape[1]))
    for rows, texts in _features(found, tables):
        counts += np.bincount(texts, minlength=len(batch))
        for start in range(0, len(rows), block):
            some = texts[start : start + block]
            heads = np.flatnonzero(np.concatenate(([True], some[1:] != some[:-1])))
            vectors = tables.rows[rows[start : start + block]].astype(np.int64)
            sums[some[heads]] += np.add.reduceat(vectors, heads)


def _list_by_numpy(batch: TextBatch, view: View, tables: Tables) -> tuple[npt.NDArray[np.int64], Positions]:
    parts = list(_features(_find_words(batch, view, tables), tables))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([texts for _, texts in parts])


def _find_words(batch: TextBatch, view: View, tables: Tables) -> _Words:
    inside = _inside(batch, view)
    edges = np.zeros(len(inside) + 1, np.bool_)
    edges[1:-1] = inside[1:] != inside[:-1]
    edges[[0, -1]] = True
    edges[batch.offsets] = True
    places = np.flatnonzero(edges)
    chosen = inside[places[:-1]] if len(inside) else np.zeros(0, np.bool_)
    starts, ends = places[:-1][chosen], places[1:][chosen]
    vocabulary = {word: index for index, word in enumerate(_vocabulary_words(tables))}
    data = batch.buffer.tobytes()
    texts = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    index = np.fromiter((vocabulary.get(word, -1) for word in texts), np.int64, len(texts))
    prefix = LABEL_PREFIX.encode()
    kept = [
        place
        for place, word in enumerate(texts)
        if word != END_OF_TEXT and (index[place] >= 0 or not word.startswith(prefix))
    ]
    owner = np.searchsorted(batch.offsets, starts, side="right") - 1
    return _Words(batch, starts[kept], ends[kept], owner[kept], index[kept])


def _vocabulary_words(tables: Tables) -> Iterator[bytes]:
    data = tables.word_bytes.tobytes()
    for start, end in zip(tables.word_offsets[:-1], tables.word_offsets[1:], strict=True):
        yield data[start:end]


def _inside(batch: TextBatch, view: View) -> npt.NDArray[np.bool_]:
    """[bytes] whether each byte is part of a word."""
    inside: npt.NDArray[np.bool_] = view.kinds[batch.buffer] == INSIDE
    if (view.kinds == MULTIBYTE).any():
        characters = decode_characters(batch)
        known = np.minimum(characters.codes, TABLE_SIZE - 1)
        letter = view.letters[known] & (characters.codes < TABLE_SIZE) & (characters.widths > 1)
        for step in range(4):
            wide = letter & (characters.widths > step)
            inside[characters.places[wide] + step] = True
    return inside


def _features(words: _Words, tables: Tables) -> Iterator[tuple[Positions, Positions]]:
    """Blocks of (rows, texts), [features] each, texts in ascending order."""
    known = words.index >= 0
    yield words.index[known], words.text[known]
    texts = len(words.batch)
    if tables.end_row >= 0 and texts:
        yield np.full(texts, tables.end_row), np.arange(texts)
    if tables.buckets and tables.word_ngrams > 1:
        yield from _run_features(words, tables)
    if tables.buckets and tables.longest_ngram > 0:
        yield from _ngram_features(words, tables)


def _in_buckets(values: Hashes, texts: Positions, tables: Tables) -> tuple[Positions, Positions]:
    buckets = (values % np.uint64(tables.buckets)).astype(np.int64)
    if not len(tables.kept):
        return buckets + tables.words, texts
    bits, before = tables.kept[buckets >> 6].T
    place = (buckets & 63).astype(np.uint64)
    chosen = bits >> place & _ONE > 0
    rank = np.bitwise_count(bits & ((_ONE << place) - _ONE)) + before
    return tables.words + rank[chosen].astype(np.int64), texts[chosen]


def _run_features(words: _Words, tables: Tables) -> Iterator[tuple[Positions, Positions]]:
    """Runs of up to `word_ngrams` words, the end mark included."""
    counts = np.bincount(words.text, minlength=len(words.batch))
    ends = np.cumsum(counts + 1) - 1
    values = np.full(len(words.starts) + len(counts), fnv_hash(END_OF_TEXT), np.uint64)
    is_word = np.ones(len(values), np.bool_)
    is_word[ends] = False
    values[is_word] = _word_hashes(words)
    signed = values.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
    text = np.repeat(np.arange(len(counts)), counts + 1)
    runs = signed.copy()
    for length in range(2, tables.word_ngrams + 1):
        after = len(signed) - length + 1
        if after <= 0:
            return
        runs = runs[:after] * RUN_FACTOR + signed[length - 1 :]
        same = text[:after] == text[length - 1 :]
        yield _in_buckets(runs[same], text[:after][same], tables)


def _word_hashes(words: _Words) -> Hashes:
    """[words] FNV hashes, byte by byte for all words at once; a long one's rest by a plain loop."""
    values = np.full(len(words.starts), FNV_SEED, np.uint64)
    widths = words.ends - words.starts
    _extend_all(values, words.batch.buffer, words.starts, widths, np.arange(len(values)), 64)
    return values & _LOW_32


def _extend_all(
    values: Hashes, buffer: Bytes, starts: Positions, widths: Positions, chosen: Positions, most: int
) -> None:
    """Continue the hashes at `chosen` with `widths` bytes from `starts` (both for `chosen` only)."""
    prime, sign = np.uint64(FNV_PRIME), np.uint64(0x80)
    for step in range(min(most, int(widths.max(initial=0)))):
        active = widths > step
        places = chosen[active]
        byte = buffer[starts[active] + step].astype(np.uint64)
        values[places] = (values[places] ^ ((byte ^ sign) - sign)) * prime
    for long in np.flatnonzero(widths > most):
        rest = buffer[starts[long] + most : starts[long] + widths[long]].tobytes()
        values[chosen[long]] = fnv_hash(rest, int(values[chosen[long]]))


def _ngram_features(words: _Words, tables: Tables) -> Iterator[tuple[Positions, Positions]]:
    for first, last in _word_blocks(words):
        wrapped, heads = _wrap(words, first, last)
        starts = np.flatnonzero(wrapped & 0xC0 != 0x80)
        widths = np.diff(starts, append=len(wrapped))
        word = np.searchsorted(heads, starts, side="right") - 1
        for begin in range(0, len(starts), _BLOCK_NGRAMS):
            stop = min(begin + _BLOCK_NGRAMS, len(starts))
            values = np.full(stop - begin, FNV_SEED, np.uint64)
            active = np.arange(stop - begin)
            for length in range(1, tables.longest_ngram + 1):
                ends = begin + active + length - 1
                active = active[ends < len(starts)]
                ends = ends[ends < len(starts)]
                within = word[ends] == word[begin + active]
                active, ends = active[within], ends[within]
                _extend_all(values, wrapped, starts[ends], widths[ends], active, _LONGEST_CHARACTER)
                if length >= tables.shortest_ngram:
                    chosen = active if length > 1 else active[_is_no_bracket(starts, begin + active, heads, wrapped)]
                    texts = words.text[first + word[begin + chosen]]
                    yield _in_buckets(values[chosen] & _LOW_32, texts, tables)


def _is_no_bracket(starts: Positions, chosen: Positions, heads: Positions, wrapped: Bytes) -> npt.NDArray[np.bool_]:
    at_edge = np.zeros(len(wrapped) + 1, np.bool_)
    at_edge[heads] = True
    at_edge[heads[1:] - 1] = True
    at_edge[len(wrapped) - 1] = True
    inner: npt.NDArray[np.bool_] = ~at_edge[starts[chosen]]
    return inner


def _word_blocks(words: _Words) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(words.ends - words.starts + 2)
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_NGRAMS, side="right")))
        yield first, last
        first = last


def _wrap(words: _Words, first: int, last: int) -> tuple[Bytes, Positions]:
    """Words `first` to `last` as `<word>` one after another, and where each begins."""
    buffer = words.batch.buffer
    widths = words.ends[first:last] - words.starts[first:last]
    heads = np.concatenate(([0], np.cumsum(widths + 2)))
    wrapped = np.empty(heads[-1], np.uint8)
    inner = np.ones(len(wrapped), np.bool_)
    inner[heads[:-1]] = inner[heads[1:] - 1] = False
    wrapped[heads[:-1]], wrapped[heads[1:] - 1] = ord("<"), ord(">")
    steps = np.arange(int(widths.sum())) - np.repeat(np.cumsum(widths) - widths, widths)
    wrapped[inner] = buffer[np.repeat(words.starts[first:last], widths) + steps]
    return wrapped, heads[:-1]
