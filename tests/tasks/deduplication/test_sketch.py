"""Sketches against Python's own strings and sets, and the two engines against each other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deduplication.compiled_sketch import BLOCK
from tasks.deduplication.planted import word_set_similarity
from tasks.deduplication.shingle_sets import ShingleSets, needed_overlaps, overlaps, similarities
from tasks.deduplication.sketch import SketchSettings, band_keys, content_hashes
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE

SETTINGS = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
ENGINES = ("numba", "numpy")
TEXTS = st.lists(st.text(st.sampled_from("abÉ١_ \t\n\u00a0\u2003\u0085\x1c“”.—İ𝔘漢"), max_size=60), max_size=6)
RAW = st.lists(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace")[:-1]))


def of_bytes(parts: list[bytes]) -> TextBatch:
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    return TextBatch(np.frombuffer(b"".join(parts), np.uint8), offsets)


def random_texts(count: int, most_words: int, seed: int = 5) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(f"word{generator.randrange(300)}" for _ in range(generator.randrange(most_words)))
        for _ in range(count)
    ]


def by_each_engine(work: object, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    results = []
    for engine in ENGINES:
        monkeypatch.setenv(ENGINE_VARIABLE, engine)
        results.append(work())  # type: ignore[operator]
    return results


@settings(max_examples=40)
@given(parts=RAW, words=st.integers(1, 7))
def test_engines_agree_on_any_bytes(parts: list[bytes], words: int) -> None:
    batch = of_bytes(parts)
    sketch = SketchSettings(words, 16, 4, 3, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        keys = by_each_engine(lambda: band_keys(batch, sketch), patch)
        contents = by_each_engine(lambda: content_hashes(batch), patch)
        sets = by_each_engine(lambda: ShingleSets.of_texts(batch, words), patch)
    assert np.array_equal(*keys)
    assert np.array_equal(*contents)
    assert np.array_equal(sets[0].hashes, sets[1].hashes)  # type: ignore[attr-defined]


def test_engines_agree_on_texts_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = TextBatch.from_texts([*random_texts(4, 3 * BLOCK), *random_texts(40, 70)])
    assert np.array_equal(*by_each_engine(lambda: band_keys(batch, SETTINGS), monkeypatch))


@given(texts=TEXTS)
def test_content_is_equal_when_only_white_space_differs(texts: list[str]) -> None:
    hashes = content_hashes(TextBatch.from_texts(texts))
    for i, first in enumerate(texts):
        for j, second in enumerate(texts):
            assert (hashes[i] == hashes[j]).all() == (" ".join(first.split()) == " ".join(second.split()))


def test_keys_do_not_depend_on_the_batch() -> None:
    texts = [*random_texts(20, 50), "", "one", "two words"]
    together = band_keys(TextBatch.from_texts(texts), SETTINGS)
    for index, text in enumerate(texts):
        assert (band_keys(TextBatch.from_texts([text]), SETTINGS)[0] == together[index]).all()


def test_equal_sets_have_equal_keys_and_similarity_decides_how_many_are_shared() -> None:
    generator = random.Random(3)
    shares = []
    for _ in range(300):
        words = [f"w{generator.randrange(10**6)}" for _ in range(400)]
        edited = list(words)
        for place in generator.sample(range(400), 9):
            edited[place] = "other"
        keys = band_keys(TextBatch.from_texts([" ".join(words), " ".join(edited)]), SETTINGS)
        similarity = word_set_similarity(" ".join(words), " ".join(edited), 5)
        shares.append(float((keys[0] == keys[1]).mean()) - similarity**SETTINGS.rows_per_band)
    # The mean over 300 x 25 bands of a share near 0.33 has a standard error of 0.0055 or more.
    assert abs(np.mean(shares)) < 0.03


@given(st.lists(st.text(st.sampled_from("ab “”.é—"), max_size=40), min_size=2, max_size=6), st.floats(0.05, 1))
def test_similarity_equals_that_of_python_sets(texts: list[str], threshold: float) -> None:
    sets = ShingleSets.of_texts(TextBatch.from_texts(texts), 3)
    first, second = (places.ravel() for places in np.indices((len(texts), len(texts))))
    with pytest.MonkeyPatch.context() as patch:
        shared = by_each_engine(lambda: overlaps(sets, first, sets, second, threshold), patch)
    assert np.array_equal(*shared)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        expected = word_set_similarity(texts[i], texts[j], 3)
        found = shared[0][pair]  # type: ignore[index]
        assert (found >= 0) == (expected >= threshold)
        if found >= 0:
            assert similarities(found, sets.sizes[i], sets.sizes[j]) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([0.1, 0.5, 0.6, 2 / 3, 0.7, 0.8, 0.9, 1.0]))
def test_needed_overlap_is_the_smallest_that_is_enough(first: int, second: int, threshold: float) -> None:
    needed = int(needed_overlaps(np.array([first]), np.array([second]), threshold)[0])
    both = first + second
    assert needed / (both - needed) >= threshold if needed < both else True
    if needed:
        assert (needed - 1) / (both - needed + 1) < threshold
