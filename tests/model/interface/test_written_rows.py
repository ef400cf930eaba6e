"""Rows of any lengths take turns, as many as a model may remember, each as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model import SamplingConfig
from model.interface import GenerationSettings
from model.interface.written_rows import RowWriter

_VOCABULARY = 100


class _Sums:
    """The likeliest token is the sum of all read, over the vocabulary; `live` counts the rows that are remembered."""

    live = most = calls = 0

    def __init__(self, rows: int) -> None:
        self._sums = torch.zeros(rows, dtype=torch.long)
        self._count(rows)

    def __del__(self) -> None:
        self._count(-len(self._sums))

    def read(self, tokens: Tensor) -> Tensor:
        type(self).calls += 1
        self._sums = (self._sums + tokens.sum(dim=1)) % _VOCABULARY
        return torch.nn.functional.one_hot(self._sums, _VOCABULARY).float()

    def select(self, rows: Sequence[int]) -> None:
        self._count(len(rows) - len(self._sums))
        self._sums = self._sums[list(rows)]

    def _count(self, change: int) -> None:
        type(self).live += change
        type(self).most = max(self.most, self.live)


@pytest.fixture(autouse=True)
def _nothing_read() -> None:
    _Sums.live = _Sums.most = _Sums.calls = 0


def _writer(rows_at_once: int = 8) -> RowWriter:
    return RowWriter(_Sums, lambda ids: "".join(f"<{token}>" for token in ids), {0}, rows_at_once)


def _expected(prompt: list[int], maximum: int) -> tuple[str, bool]:
    total, text = sum(prompt) % _VOCABULARY, ""
    for _ in range(maximum):
        if total == 0:
            return text, True
        text += f"<{total}>"
        total = 2 * total % _VOCABULARY
    return text, False


def test_rows_are_written_as_if_alone_and_few_at_a_time() -> None:
    prompts = [[1 + n % 7] * (1 + n % 45) for n in range(120)]
    settings = [GenerationSettings(maximum_new_tokens=1 + n % 9) for n in range(120)]
    writer = _writer()
    found = writer.complete(writer.rows(prompts, settings))
    for answer, prompt, one in zip(found, prompts, settings, strict=True):
        assert (answer.text, answer.finished) == _expected(prompt, one.maximum_new_tokens)
        assert answer.prompt_tokens == len(prompt) and answer.log_probabilities is None
    assert 24 < _Sums.most <= 32 and _Sums.live == 0


def test_rows_of_one_length_share_a_call() -> None:
    writer = _writer(rows_at_once=4)
    prompts = [[1, n] for n in range(1, 9)]
    writer.complete(writer.rows(prompts, [GenerationSettings(maximum_new_tokens=3)] * 8))
    assert _Sums.calls == 2 * 3


def test_a_row_of_many_lengths_is_cancelled_between_calls() -> None:
    writer = _writer()
    rows = writer.rows([[1], [1, 1], [1, 1, 1]], [GenerationSettings(maximum_new_tokens=6)] * 3)
    pieces = list(writer.pieces(rows, cancel=lambda: _Sums.calls >= 4))
    assert [piece.prompt for piece in pieces] == [0, 1, 2, 0] and _Sums.calls == 4


def test_a_seed_decides_a_row_and_its_absence_draws_anew() -> None:
    writer = _writer()
    flat = SamplingConfig(temperature=50.0)
    drawn = [flat.model_copy(update={"seed": 4}), flat.model_copy(update={"seed": 4}), flat, flat]
    settings = [GenerationSettings(maximum_new_tokens=12, sampling=one) for one in drawn]
    texts = [answer.text for answer in writer.complete(writer.rows([[7]] * 4, settings))]
    assert texts[0] == texts[1] and len(set(texts)) == 3
