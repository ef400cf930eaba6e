"""Processes that share rows get the loss and the gradients that one process gets from whole rows."""

from __future__ import annotations

import pytest

from tests.model.sequence_parallel.ranks import CASES, Outcome, all_outcomes, outcome_of


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return all_outcomes(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_rank(name: str, outcomes: dict[str, Outcome]) -> None:
    shared, alone = outcomes[name], outcome_of(CASES[name])
    assert shared.loss == pytest.approx(alone.loss, abs=1e-6)
    assert shared.evaluated == pytest.approx(alone.evaluated, abs=1e-6)
    assert shared.gradients.keys() == alone.gradients.keys()
    for parameter, expected in alone.gradients.items():
        largest = expected.abs().max()
        difference = (shared.gradients[parameter] - expected).abs().max()
        assert difference <= 1e-5 * largest, f"{parameter}: {difference / largest:.1e} of its largest gradient"


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_keeps_its_share_of_the_activations(size: int, outcomes: dict[str, Outcome]) -> None:
    """What autograd holds; the head's gradient, which the loss computes at once, is not a matter of tokens.

    A little more than the share: attention's output is kept as heads of the row and as a slice of all heads.
    """
    name = f"what a rank of {size} keeps"
    head = 4 * 256 * 64
    shared, alone = outcomes[name].kept_bytes - head, outcome_of(CASES[name]).kept_bytes - head
    assert alone / size <= shared <= 1.04 * alone / size
