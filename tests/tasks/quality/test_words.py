"""Word hashing agrees with plain Python on what a word is and when words are equal."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.quality.words import batches, contains, hash_vocabulary, hash_words, sum_by_text

TEXTS = st.lists(st.text(st.sampled_from("aAbB19 _.,\n“”—、é漢—Ω"), max_size=60), max_size=8)
WORD = re.compile(r"\w+")


def python_words(text: str) -> list[str]:
    return WORD.findall(text.lower())


@given(TEXTS)
def test_words_are_those_of_a_unicode_word_pattern(texts: list[str]) -> None:
    words = hash_words(texts)
    expected = [word for text in texts for word in python_words(text)]
    found = [bytes(words.buffer[a:b]).decode() for a, b in zip(words.starts, words.ends, strict=True)]
    assert found == expected
    assert list(np.diff(words.first)) == [len(python_words(text)) for text in texts]


@given(TEXTS)
def test_hashes_are_equal_exactly_when_words_are(texts: list[str]) -> None:
    words = hash_words(texts)
    spelled = [word for text in texts for word in python_words(text)]
    assert len(set(words.hashes.tolist())) == len(set(spelled))
    assert len(set(zip(words.hashes.tolist(), spelled, strict=True))) == len(set(spelled))


@given(TEXTS, st.integers(1, 6))
def test_ngrams_never_cross_texts(texts: list[str], length: int) -> None:
    words = hash_words(texts)
    hashes, offsets = words.ngrams(length)
    expected = [max(len(python_words(text)) - length + 1, 0) for text in texts]
    assert list(np.diff(offsets)) == expected
    assert len(hashes) == sum(expected) == len(words.ngram_starts(length))


def test_a_word_hashes_alike_wherever_it_stands() -> None:
    long_text = "filler " * 200_000 + "needle"
    assert hash_words([long_text]).hashes[-1] == hash_words(["Needle"]).hashes[0]


def test_vocabulary_and_sums() -> None:
    words = hash_words(["the cat and the dog", "", "a dog"])
    hits = contains(hash_vocabulary(["the", "dog"]), words.hashes)
    assert sum_by_text(hits, words.first).tolist() == [3, 0, 1]


@given(st.lists(st.text(max_size=50)), st.integers(1, 100))
def test_batches_cover_everything_once(texts: list[str], size: int) -> None:
    assert [index for part in batches(texts, size) for index in part] == list(range(len(texts)))
