"""The recall harness on models whose recall is known: a perfect copier, and one that guesses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.evaluation.config import NeedleConfig
from tasks.evaluation.language_model import FloatArray, IntArray
from tasks.evaluation.needle import ask, make_questions, pool, wilson_interval

SEPARATOR = 0
TEXT = np.array([ord(letter) for letter in "It was a bright cold day in April. " * 40])


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


class Copier:
    """Finds each candidate after the question's words in its context: cheap when there, dear when not."""

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        raise NotImplementedError

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        texts = ["".join(map(chr, row)) for row in contexts]
        return np.array(
            [
                [0.1 if f"is{''.join(map(chr, tokens))}." in text else 7.1 for tokens in row]
                for text, row in zip(texts, candidates, strict=True)
            ]
        )


class Guesser(Copier):
    """Likelihoods that know nothing of the context."""

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        return np.random.default_rng(0).random((len(candidates), len(candidates[0])))


CONFIG = NeedleConfig(depths=(0.0, 0.5, 1.0), samples_per_cell=40, candidates=10)


def test_a_perfect_copier_recalls_everything_and_gains_what_it_gains() -> None:
    questions = list(make_questions(CONFIG, [200], TEXT, SEPARATOR, encode, seed=1))
    cells = ask(Copier(), CONFIG, questions)
    assert [cell.correct for cell in cells] == [40, 40, 40]
    assert [cell.depth for cell in cells] == [0.0, 0.5, 1.0]
    assert pool(cells).gain_nats == pytest.approx(7.0)


def test_guessing_gives_chance() -> None:
    questions = list(make_questions(CONFIG, [200], TEXT, SEPARATOR, encode, seed=1))
    pooled = pool(ask(Guesser(), CONFIG, questions))
    low, high = wilson_interval(pooled.correct, pooled.samples)
    assert low < 1 / CONFIG.candidates < high


def test_prompts_have_the_length_the_needle_and_real_text() -> None:
    for question in make_questions(CONFIG, [250, 300], TEXT, SEPARATOR, encode, seed=1):
        needles = ["".join(map(chr, question.candidates[right])) + "." for right in question.right]
        answer_tokens = len(" 4817") - 1  # the last one is predicted, not read
        assert question.prompts.shape == (3, question.length - answer_tokens)
        assert question.without_needle.shape == (question.length - answer_tokens,)
        for row, needle in zip(question.prompts, needles, strict=True):
            text = "".join(map(chr, row))
            assert row[0] == SEPARATOR
            assert needle in text
            assert "day in April" in text
        assert "code" not in "".join(map(chr, question.without_needle))[: -len(" The secret code of Helsinki is")]
        assert len({*question.candidates}) == CONFIG.candidates


def test_depth_moves_the_needle_from_start_to_end() -> None:
    question = next(make_questions(CONFIG, [200], TEXT, SEPARATOR, encode, seed=1))
    places = ["".join(map(chr, row)).index(" The secret code") for row in question.prompts]
    assert places[0] == 1
    assert places[0] < places[1] < places[2]


def test_questions_are_the_same_every_time_and_short_lengths_are_left_out() -> None:
    first, again = (list(make_questions(CONFIG, [20, 200], TEXT, SEPARATOR, encode, seed=5)) for _ in range(2))
    assert {question.length for question in first} == {200}
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.prompts, other.prompts)


def test_wilson_interval_against_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
