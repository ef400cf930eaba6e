"""Processes that share rows get the loss and the gradients that one process gets from whole rows."""

from __future__ import annotations

import re

import pytest

from tests.model.sequence_parallel.ranks import CASES, Outcome, all_outcomes, outcome_of


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return all_outcomes(tmp_path_factory.mktemp("ranks"))


def kind(parameter: str) -> str:
    """A parameter's name without its layer."""
    return re.sub(r"\.\d+\.", ".", parameter)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_rank(name: str, outcomes: dict[str, Outcome]) -> None:
    """To 1e-5 of the largest gradient that a parameter has in any layer.

    In one layer, the decay rate of the one head is a sum over all tokens that may cancel: there a single process with
    other chunks differs from itself by 3e-5.
    """
    shared, alone = outcomes[name], outcome_of(CASES[name])
    assert shared.loss == pytest.approx(alone.loss, abs=1e-6)
    assert shared.evaluated == pytest.approx(alone.evaluated, abs=1e-6)
    assert shared.gradients.keys() == alone.gradients.keys()
    largest: dict[str, float] = {}
    for parameter, expected in alone.gradients.items():
        largest[kind(parameter)] = max(largest.get(kind(parameter), 0.0), float(expected.abs().max()))
    for parameter, expected in alone.gradients.items():
        difference = float((shared.gradients[parameter] - expected).abs().max()) / largest[kind(parameter)]
        assert difference <= 1e-5, f"{parameter}: off by {difference:.1e} of the largest"


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_keeps_its_share_of_the_activations(size: int, outcomes: dict[str, Outcome]) -> None:
    """What autograd holds; the head's gradient, which the loss computes at once, is not a matter of tokens.

    A little more than the share: attention's output is kept as heads of the row and as a slice of all heads.
    """
    name = f"what a rank of {size} keeps"
    head = 4 * 256 * 64
    shared, alone = outcomes[name].kept_bytes - head, outcome_of(CASES[name]).kept_bytes - head
    assert alone / size <= shared <= 1.04 * alone / size
