"""Candidates, verification and clusters against brute force on small corpora."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.deduplication.clusters import best_of_each, connected, verify
from tasks.deduplication.minhash import SketchSettings, band_keys, candidate_pairs, jaccard, shingle_sets
from tasks.deduplication.planted import edited_copy, measure_planted, word_set_similarity

SETTINGS = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
WORDS = [f"word{number}" for number in range(300)]


def random_text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(words))


@given(st.lists(st.text(st.sampled_from("ab “”.é—"), max_size=40), min_size=2, max_size=6))
def test_similarity_equals_that_of_python_sets(texts: list[str]) -> None:
    sets = shingle_sets(texts, 3)
    for i, first in enumerate(texts):
        for j, second in enumerate(texts):
            assert jaccard(sets[i], sets[j]) == pytest.approx(word_set_similarity(first, second, 3))


def test_near_duplicates_are_those_of_brute_force() -> None:
    generator = random.Random(5)
    texts = [random_text(generator, generator.randrange(1, 150)) for _ in range(60)]
    texts += [edited_copy(text, generator) for text in texts for _ in range(3)]
    expected = {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if word_set_similarity(texts[i], texts[j], 5) >= 0.8
    }
    candidates = candidate_pairs(band_keys(texts, SETTINGS), small_bucket=64)
    verified = verify(candidates, lambda rows: [texts[row] for row in rows], 5, 0.8)
    found = {(int(a), int(b)) for a, b in verified.pairs}
    assert len(expected) > 40
    assert found <= expected
    assert len(expected - found) <= 0.02 * len(expected)


def test_keys_do_not_depend_on_the_batch() -> None:
    generator = random.Random(6)
    texts = [random_text(generator, 50) for _ in range(20)] + ["", "one", "two words"]
    together = band_keys(texts, SETTINGS)
    for index, text in enumerate(texts):
        assert (band_keys([text], SETTINGS)[0] == together[index]).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(2, 6))
def test_buckets_are_linked_whole(keys: list[int], small_bucket: int) -> None:
    array = np.array(keys, np.uint64).reshape(-1, 1)
    pairs = candidate_pairs(array, small_bucket)
    labels = connected(len(keys), pairs)
    for i in range(len(keys)):
        for j in range(i):
            assert (labels[i] == labels[j]) == (keys[i] == keys[j])
            if keys[i] == keys[j] and keys.count(keys[i]) <= small_bucket:
                assert [j, i] in pairs.tolist()


def test_the_best_document_stays() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    best = best_of_each(
        labels,
        np.array([0.5, 0.9, 0.9, 0.1, 0.1, 0.0]),
        np.array([9, 5, 7, 4, 4, 1]),
        ["a", "b", "c", "e", "d", "f"],
    )
    assert best.tolist() == [2, 2, 2, 4, 4, 5]


def test_planted_pairs_are_found() -> None:
    generator = random.Random(7)
    result = measure_planted([random_text(generator, 200) for _ in range(150)], SETTINGS, 0.8, 64, seed=3)
    assert result.true_pairs > 30
    assert (result.precision, result.recall) == (1.0, pytest.approx(1.0, abs=0.03))
