"""Our inference against fastText's own, and the two engines against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tasks.text.fasttext import FastTextModel, write_model
from tasks.text.fasttext.features import list_features, new_cache, sum_features
from tasks.text.fasttext.format import Loss
from tasks.text.fasttext.tables import build_tables, letters_view, whole_view

ENGINES = ("numba", "numpy")
TEXTS = [
    "",
    "the word a word the",
    "The café\tby 日本\r\nwas <b> a\vword\fcaf\0é",
    "   leading and trailing   ",
    "__label__a the __label__unknown word",
    "x" * 500 + " " + "é日" * 70 + " end",
    "the " * 300,
]
MODELS: dict[str, dict[str, Any]] = {
    "words only": {},
    "hierarchical softmax": {"loss": Loss.HIERARCHICAL_SOFTMAX, "labels": 9},
    "one label": {"loss": Loss.HIERARCHICAL_SOFTMAX, "labels": 1},
    "one versus all": {"loss": Loss.ONE_VERSUS_ALL},
    "negative sampling": {"loss": Loss.NEGATIVE_SAMPLING},
    "character n-grams": {"buckets": 101, "shortest_ngram": 1, "longest_ngram": 4},
    "runs of words": {"buckets": 101, "word_ngrams": 3},
    "runs, buckets a power of two": {"buckets": 64, "word_ngrams": 2},
    "both, no end mark": {
        "buckets": 97, "shortest_ngram": 2, "longest_ngram": 3, "word_ngrams": 2, "words": [b"the", b"word"],
    },
    "quantized": {"is_quantized": True, "buckets": 50, "shortest_ngram": 3, "longest_ngram": 6},
    "quantized, norms": {"is_quantized": True, "norms": True, "buckets": 50, "word_ngrams": 2},
    "pruned": {
        "is_quantized": True, "norms": True, "buckets": 300, "kept_buckets": 40, "shortest_ngram": 2,
        "longest_ngram": 4, "word_ngrams": 2, "loss": Loss.HIERARCHICAL_SOFTMAX, "labels": 6,
    },
    "pruned to words": {"is_quantized": True, "buckets": 300, "kept_buckets": 0, "longest_ngram": 4},
}  # fmt: skip


def of_bytes(parts: list[bytes]) -> TextBatch:
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    return TextBatch(np.frombuffer(b"".join(parts), np.uint8), offsets)


def on_one_line(text: str) -> str:
    return text.replace("\n", " ") + "\n"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
def test_probabilities_are_those_of_fasttext(
    engine: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    content = random_model(**MODELS[kind])
    write_model(tmp_path / "model.bin", content)
    theirs = fasttext.load_model(str(tmp_path / "model.bin"))
    ours = FastTextModel.load(tmp_path / "model.bin")
    batch = TextBatch.from_texts(TEXTS)
    columns = {label: ours.probability_of(batch, label) for label in content.labels}
    likeliest = ours.predict(batch)
    for row, text in enumerate(TEXTS):
        expected = theirs.f.predict(on_one_line(text), -1, 0.0, "strict")
        assert bool(expected) == (likeliest.label[row] >= 0)
        for probability, label in expected:
            assert columns[label][row] == pytest.approx(min(probability, 1.0), abs=2e-5)
        if expected:
            best = ours.labels[likeliest.label[row]]
            assert {label: p for p, label in expected}[f"__label__{best}"] == pytest.approx(expected[0][0], abs=2e-5)
            assert likeliest.probability[row] == columns[f"__label__{best}"][row]


RAW = st.lists(
    st.binary(max_size=30)
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace"))
    | st.lists(st.sampled_from([b"the", b"</s>", b"__label__a", b"word", b" ", b"\n", b"\xc3\xa9", b"\x80", b"ab"]))
    .map(b"".join),
    max_size=6,
)  # fmt: skip
KINDS = st.sampled_from(
    [
        "both, no end mark",
        "character n-grams",
        "runs of words",
        "runs, buckets a power of two",
        "pruned",
        "pruned to words",
    ]
)


@settings(max_examples=150, deadline=None)
@given(parts=RAW, kind=KINDS, letters=st.booleans(), again=st.booleans())
def test_engines_agree_on_any_bytes(parts: list[bytes], kind: str, letters: bool, again: bool) -> None:
    tables = build_tables(random_model(**MODELS[kind]))
    view, batch, cache = letters_view() if letters else whole_view(), of_bytes(parts), new_cache(5)
    results = []
    for engine in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_VARIABLE, engine)
            if again:  # from the cache
                sum_features(batch, view, tables, cache)
            found = sum_features(batch, view, tables, cache)
            results.append((found.sums, found.counts, found.words, *list_features(batch, view, tables)))
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)
    sums, counts, _, rows, first = results[0]
    assert np.array_equal(counts, np.diff(first))
    for text in range(len(batch)):
        assert np.array_equal(tables.rows[rows[first[text] : first[text + 1]]].sum(axis=0, dtype=np.int64), sums[text])


def test_a_full_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    content = random_model(**MODELS["character n-grams"])
    tables = build_tables(content)
    batch = TextBatch.from_texts([" ".join(f"word{number % 700}" for number in range(5_000))] * 2)
    roomy = sum_features(batch, whole_view(), tables, new_cache(5))
    monkeypatch.setattr("tasks.text.fasttext.features._CACHE_BYTES", 0)
    small = new_cache(5)
    crowded = sum_features(batch, whole_view(), tables, small)
    assert small.used[0] <= 64
    assert np.array_equal(roomy.sums, crowded.sums)
    assert np.array_equal(roomy.sums[0], roomy.sums[1])


def test_results_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = FastTextModel(random_model(**MODELS["both, no end mark"]))
    together = model.predict(TextBatch.from_texts(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = model.predict(TextBatch.from_texts([text]))
        assert alone.probability[0] == together.probability[row]
        assert alone.label[0] == together.label[row]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_mark_hides_nothing(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    model = FastTextModel(random_model(**MODELS["runs of words"]))
    texts = TextBatch.from_texts(["the </s> word a", "the word a", "the"])
    marked, plain, cut = model.probability_of(texts, "a")
    assert marked == plain != cut


@pytest.mark.parametrize("engine", ENGINES)
def test_only_letters_and_their_marks_make_words(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    model = FastTextModel(random_model(**MODELS["both, no end mark"]))
    noisy = TextBatch.from_texts(["the_word—the2word… café “हिन्दी”!"])
    clean = TextBatch.from_texts(["the word the word café हिन्दी"])
    assert model.predict(noisy, letters_only=True).words[0] == 6
    assert model.probability_of(noisy, "a", letters_only=True) == model.probability_of(clean, "a")
    assert model.probability_of(noisy, "a") != model.probability_of(clean, "a")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("letters_only", [True, False])
def test_hostile_texts(engine: str, letters_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    model = FastTextModel(random_model(**MODELS["both, no end mark"]))
    empty = of_bytes([])
    assert len(model.predict(empty, letters_only=letters_only).label) == 0
    assert len(model.probability_of(empty, "a")) == 0
    parts = [b"x" * 1_000_000, b"\x80" * 200_000, b"a\x80" * 100_000, b"\0" * 1_000, b"\xff\xfe\xed\xa0\x80", b""]
    found = model.predict(of_bytes(parts), letters_only=letters_only)
    assert found.words[0] == 1
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    assert not found.words[[3, 5]].any()


def test_ten_megabytes_without_a_space() -> None:
    model = FastTextModel(random_model(**MODELS["both, no end mark"]))
    found = model.predict(of_bytes([b"ab" * 5_000_000]))
    assert found.words[0] == 1


def test_an_unknown_label_is_named() -> None:
    model = FastTextModel(random_model())
    with pytest.raises(ConfigurationError, match=r"no label 'spam'.*choose one of: a, b"):
        model.probability_of(TextBatch.from_texts(["x"]), "spam")


def test_a_model_is_pinned_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_model(path, random_model())
    FastTextModel.load(path, checksum_file(path))
    with pytest.raises(ConfigurationError, match=r"model\.bin.*expected xxh3"):
        FastTextModel.load(path, "xxh3_128:00")
