"""pass@k against what it estimates: all choices of k among the samples, counted."""

from __future__ import annotations

from itertools import combinations

import pytest

from tasks.evaluation.code_execution import pass_at_k


@pytest.mark.parametrize(("samples", "correct"), [(n, c) for n in range(1, 7) for c in range(n + 1)])
def test_it_is_the_share_of_choices_with_a_right_one(samples: int, correct: int) -> None:
    results = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        choices = [any(chosen) for chosen in combinations(results, k)]
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


def test_it_agrees_with_the_papers_product() -> None:
    expected = 1.0
    for number in range(200 - 17 + 1, 200 + 1):
        expected *= 1.0 - 100 / number
    assert pass_at_k(200, 17, 100) == pytest.approx(1.0 - expected, rel=1e-12)


@pytest.mark.parametrize(("samples", "correct", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0), (0, 0, 1)])
def test_what_is_not_defined_is_refused(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(samples, correct, k)
