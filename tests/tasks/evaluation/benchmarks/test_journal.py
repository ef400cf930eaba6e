"""The journal keeps what was answered whole, whatever a kill leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluation.benchmarks.journal import Journal


def _never() -> list[object]:
    raise AssertionError("asked again")


def test_answers_survive_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.answers("kind", [[number]], lambda number=number: [[0.1 * number, True]])  # type: ignore[misc]
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == 10]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        again = Journal(path)
        assert len(again) == sum(end <= cut for end in ends)
        for number in range(len(again)):
            assert again.answers("kind", [[number]], _never) == [[0.1 * number, True]]
        assert path.read_bytes() == content[: max([0, *(end for end in ends if end <= cut)])]


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).answers("kind", ["x"], lambda: ["some answer"])
    path.write_bytes(path.read_bytes().replace(b"some", b"same"))
    again = Journal(path)
    assert len(again) == 0
    assert again.answers("kind", ["x"], lambda: ["other"]) == ["other"] and again.asked == 1


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_numbers_come_back_bit_for_bit(values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    Journal(path).answers("kind", list(values), lambda: list(values))
    assert Journal(path).answers("kind", list(values), _never) == values


def test_kinds_and_batches_are_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.answers("a", [1], lambda: ["first"]) == ["first"]
    assert journal.answers("b", [1], lambda: ["second"]) == ["second"]
    assert journal.answers("a", [1, 1], lambda: ["x", "y"]) == ["x", "y"]
    assert journal.asked == 4
    assert journal.answers("a", [1], _never) == ["first"]
