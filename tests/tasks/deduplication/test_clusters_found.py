"""Candidates, large buckets and components against brute force on small corpora."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deduplication import SketchSettings, find_duplicates
from tasks.deduplication.candidates import candidates_of_band
from tasks.deduplication.components import best_of_each, connected
from tasks.deduplication.in_memory import HeldSets
from tasks.deduplication.large_buckets import link_large_bucket
from tasks.deduplication.page import Piece, side_by_side, size_ranges
from tasks.deduplication.pairs import pack, unpack
from tasks.deduplication.planted import edited_copy, measure_planted, word_set_similarity
from tasks.deduplication.shingle_sets import ShingleSets
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE

SETTINGS = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
WORDS = [f"word{number}" for number in range(300)]


def random_text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(words))


def edited_texts(seed: int, originals: int, copies: int) -> list[str]:
    generator = random.Random(seed)
    texts = [random_text(generator, generator.randrange(1, 150)) for _ in range(originals)]
    return texts + [edited_copy(text, generator) for text in texts for _ in range(copies)]


def similar_pairs(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if word_set_similarity(texts[i], texts[j], 5) >= threshold
    }


def components(count: int, pairs: set[tuple[int, int]]) -> list[int]:
    labels = list(range(count))
    for a, b in pairs:
        old, new = labels[b], labels[a]
        labels = [new if label == old else label for label in labels]
    return labels


def same_partition(first: object, second: object) -> bool:
    first, second = list(first), list(second)  # type: ignore[call-overload]
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_clusters_are_those_of_brute_force(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    texts = edited_texts(5, 60, 3)
    expected = similar_pairs(texts, 0.8)
    found = find_duplicates(TextBatch.from_texts(texts), SETTINGS, 0.8, small_bucket=64)
    assert len(expected) > 40
    assert {(int(a), int(b)) for a, b in zip(*unpack(found.links.pairs), strict=True)} <= expected
    assert same_partition(found.keeper, components(len(texts), expected))


def test_small_buckets_limit_changes_no_cluster() -> None:
    texts = edited_texts(8, 20, 12)
    keepers = [find_duplicates(TextBatch.from_texts(texts), SETTINGS, 0.8, limit).keeper for limit in (64, 5, 2)]
    assert np.array_equal(keepers[0], keepers[1])
    assert np.array_equal(keepers[0], keepers[2])


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(2, 6), st.integers(0, 40))
def test_buckets_give_all_their_pairs_or_are_handed_on_whole(
    numbers: list[int], small_bucket: int, own_rows: int
) -> None:
    rows = np.arange(len(numbers))
    found = candidates_of_band(np.array(numbers, np.uint64), rows, small_bucket, own_rows)
    pairs = {(int(a), int(b)) for a, b in zip(*unpack(found.pairs), strict=True)}
    buckets = [[row for row in rows if numbers[row] == number] for number in range(4)]
    own = [bucket for bucket in buckets if bucket and bucket[0] < own_rows]
    assert pairs == {
        (a, b)
        for bucket in own
        if len(bucket) <= small_bucket
        for a in bucket
        for b in bucket
        if a < b and a < own_rows
    }
    assert sorted(bucket.tolist() for bucket in found.large) == sorted(b for b in own if len(b) > small_bucket)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.8]), st.booleans())
def test_leaders_find_the_components_of_a_large_bucket(seed: int, threshold: float, small_windows: bool) -> None:
    """Sets drift step by step, so that many similar pairs are not similar to any common leader."""
    generator = random.Random(seed)
    current = set(range(30))
    sets = []
    for _ in range(40):
        current = set(generator.sample(sorted(current), len(current) - 2)) | {generator.randrange(200), -1}
        if generator.random() < 0.1:
            current = {generator.randrange(200) for _ in range(30)}
        sets.append(current)
    arrays = [np.unique(np.array(sorted(one), np.int64).astype(np.uint64)) for one in sets]
    offsets = np.concatenate(([0], np.cumsum([len(array) for array in arrays])))
    rows = np.arange(len(sets))
    held = HeldSets(rows, ShingleSets(np.concatenate(arrays), offsets))
    expected = {
        (i, j) for i in rows for j in rows if i < j and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }
    window = 2000 if small_windows else 1 << 20
    links = link_large_bucket(rows, held, threshold, window_bytes=window)
    found = {(int(a), int(b)) for a, b in zip(*unpack(links.pairs), strict=True)}
    assert found <= expected
    if not links.incomplete:
        assert same_partition(connected(len(rows), *unpack(links.pairs)), components(len(rows), expected))
    assert (links.incomplete > 0) == small_windows


def test_a_bucket_with_too_many_leaders_says_so() -> None:
    arrays = [np.arange(start, start + 10, dtype=np.uint64) for start in range(0, 500, 10)]
    held = HeldSets(np.arange(50), ShingleSets(np.concatenate(arrays), np.arange(0, 501, 10)))
    links = link_large_bucket(np.arange(50), held, 0.8, leaders=8)
    assert (len(links.pairs), links.incomplete) == (0, 42)


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_engines_agree_on_components(count: int, pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[side] % count for pair in pairs], np.int64) for side in (0, 1))
    labels = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.deduplication.components._FEW_PAIRS", 0)
        for engine in ("numba", "numpy"):
            patch.setenv(ENGINE_VARIABLE, engine)
            labels.append(connected(count, first, second).tolist())
    expected = components(count, set(zip(first.tolist(), second.tolist(), strict=True)))
    assert labels[0] == labels[1]
    assert same_partition(labels[0], expected)
    assert all(label == min(i for i in range(count) if labels[0][i] == label) for label in labels[0])


def test_the_best_document_stays() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    quality, sizes = np.array([0.5, 0.9, 0.9, 0.1, 0.1, 0.0]), np.array([9, 5, 7, 4, 4, 1])
    best = best_of_each(labels, -quality, -sizes, np.array([0, 1, 2, 4, 3, 5]))
    assert best.tolist() == [2, 2, 2, 4, 4, 5]


def test_pairs_keep_rows_up_to_the_largest() -> None:
    first, second = np.array([5, (1 << 32) - 1]), np.array([(1 << 32) - 1, 0])
    assert [side.tolist() for side in unpack(pack(first, second))] == [[5, 0], [(1 << 32) - 1] * 2]


def test_planted_pairs_are_found() -> None:
    generator = random.Random(7)
    result = measure_planted([random_text(generator, 200) for _ in range(150)], SETTINGS, 0.8, 64, seed=3)
    assert result.true_pairs > 30
    assert (result.precision, result.recall) == (1.0, pytest.approx(1.0, abs=0.03))


def test_excerpts_begin_shortly_before_the_first_difference() -> None:
    words = [f"w{number}" for number in range(500)]
    kept, gone = side_by_side(" ".join(words), " ".join([*words[:300], "other", *words[301:]]))
    assert [piece.text.split() for piece in kept if piece.differs] == [["w300"]]
    assert [piece.text.split() for piece in gone if piece.differs] == [["other"]]
    assert kept[0].text.split() == words[280:300] == gone[0].text.split()
    assert kept[0] == gone[0]
    assert side_by_side("a b", "a b") == ([Piece("a b", False)], [Piece("a b", False)])
    assert [piece.differs for piece in side_by_side("", "a\u202eb")[1]] == [True]
    assert "\u202e" not in side_by_side("", "a\u202eb")[1][0].text


def test_cluster_sizes_are_gathered_into_ranges() -> None:
    ranges = size_ranges(Counter({2: 5, 9: 1, 10: 2, 19: 3, 21: 4}))
    assert ranges == [("2", 5), ("9", 1), ("10 to 19", 5), ("20 to 39", 4)]
