"""Shared runs of words: compiled and numpy loops agree with each other and with sets of tuples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.download.decontamination import EvaluationIndex
from tasks.text import TextBatch
from tasks.text.engine import ENGINE_VARIABLE

WORDS = st.lists(st.sampled_from(["a", "b", "c", "Der", "é"]), max_size=30).map(" ".join)


def runs(text: str, length: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


@given(st.lists(WORDS, max_size=6), st.lists(st.lists(WORDS, max_size=4), max_size=4), st.integers(5, 8))
@settings(deadline=None)
def test_both_engines_count_what_sets_of_tuples_count(texts: list[str], sets: list[list[str]], length: int) -> None:
    found = []
    for name in ("numba", "numpy"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_VARIABLE, name)
            index = EvaluationIndex.of({f"s{number}": items for number, items in enumerate(sets)}, length)
            shared = index.shared(TextBatch.from_texts(texts))
            found.append((shared.counts.tolist(), shared.sets.tolist()))
    known = [{run for item in items for run in runs(item, length)} for items in sets]
    union = set().union(*known)
    counts = [sum(run in union for run in runs(text, length)) for text in texts]
    members = [
        sum(1 << bit for bit, of_set in enumerate(known) if of_set.intersection(runs(text, length))) for text in texts
    ]
    assert found == [(counts, members)] * 2


def test_an_index_comes_back_from_its_file(tmp_path: Path) -> None:
    index = EvaluationIndex.of({"a": ["one two three four five six"], "b": ["two three four five six"]}, 5)
    index.save(tmp_path / "index.npz")
    again = EvaluationIndex.load(tmp_path / "index.npz")
    assert (again.names, again.words) == (("a", "b"), 5)
    assert np.array_equal(again.hashes, index.hashes)
    assert sorted(again.members.tolist()) == [1, 3]


def test_too_many_sets_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="65 sets are more than 64"):
        EvaluationIndex.of({str(number): [] for number in range(65)}, 13)
