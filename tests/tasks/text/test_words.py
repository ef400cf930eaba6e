"""Words against Python's regular expressions, and the two engines against each other."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tasks.text.words import hash_words

ENGINES = ("numba", "numpy")
TEXTS = st.lists(st.text(max_size=60), max_size=6)
#: Valid text, random bytes, and valid sequences cut short.
RAW = st.lists(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")[:-1]))


def of_bytes(parts: list[bytes]) -> TextBatch:
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    return TextBatch(np.frombuffer(b"".join(parts), np.uint8), offsets)


def python_words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("engine", ENGINES)
@given(texts=TEXTS)
def test_words_are_those_of_a_regular_expression(engine: str, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, engine)
        batch = TextBatch.from_texts(texts)
        words = hash_words(batch)
    found = [batch.buffer[a:b].tobytes().decode() for a, b in zip(words.starts, words.ends, strict=True)]
    assert found == [word for text in texts for word in python_words(text)]
    counts = [len(python_words(text)) for text in texts]
    assert list(np.diff(words.first)) == counts


@given(parts=RAW, length=st.integers(1, 6))
def test_engines_agree_on_any_bytes(parts: list[bytes], length: int) -> None:
    results = []
    for engine in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_VARIABLE, engine)
            words = hash_words(of_bytes(parts))
            results.append((words.starts, words.ends, words.hashes, words.first, *words.runs(length)))
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)


@given(texts=TEXTS)
def test_equal_words_have_equal_hashes_whatever_their_case_and_place(texts: list[str]) -> None:
    words = hash_words(TextBatch.from_texts(texts))
    lowered = [
        "".join(c.lower()[0] for c in w) for t in texts for w in python_words(t.encode("utf-8", "replace").decode())
    ]
    by_word: dict[str, int] = {}
    for word, value in zip(lowered, words.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, value) == value
    assert len(set(by_word.values())) == len(by_word)


@pytest.mark.parametrize("engine", ENGINES)
def test_typographic_punctuation_separates_words(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    curly = hash_words(TextBatch.from_texts(["“Naïve” — it’s…", 'NAÏVE - "it\'s"']))
    assert np.array_equal(curly.hashes[: curly.first[1]], curly.hashes[curly.first[1] :])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_word_does_not_continue_in_the_next_text(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    assert list(hash_words(TextBatch.from_texts(["ab", "cd", "", "é"])).first) == [0, 1, 2, 2, 3]
