from __future__ import annotations

from typing import cast

import pytest
import torch
from torch.distributed import ProcessGroup

from model import CacheError, ConfigurationError, HybridLM, preset
from model.sequence_parallel import SequenceParallel, check_sequence_parallel, own_slice, slice_batch
from model.sequence_parallel.collectives import from_previous_rank
from model.sequence_parallel.heads import rows_of_own_heads


def test_slices_put_together_are_the_row() -> None:
    rows = torch.arange(24).view(2, 12)
    assert torch.equal(torch.cat([own_slice(rows, rank, 3) for rank in range(3)], dim=1), rows)


def test_the_last_target_of_a_slice_is_the_first_token_of_the_next() -> None:
    rows = torch.arange(9).view(1, 9)
    _, targets, ids = slice_batch(rows[:, :-1], rows[:, 1:], None, 0, 2)
    tokens, _, _ = slice_batch(rows[:, :-1], rows[:, 1:], None, 1, 2)
    assert targets[0, -1] == tokens[0, 0] and ids is None


def test_rows_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="rows of 10 tokens cannot be divided into 3"):
        own_slice(torch.zeros(1, 10), 0, 3)


@pytest.mark.parametrize(
    ("tokens", "size", "message"),
    [
        (100, 3, "does not divide context_tokens=100"),
        (8, 4, "leaves 2 of context_tokens=8"),
        (96, 8, "does not divide attention_heads=4"),
    ],
)
def test_what_ranks_cannot_share_is_refused(tokens: int, size: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_sequence_parallel(preset("miniature"), tokens, size)


def test_what_ranks_can_share_is_accepted() -> None:
    config = preset("miniature")
    check_sequence_parallel(config, 96, 4)
    check_sequence_parallel(config, 3, 1)
    check_sequence_parallel(config.changed(pattern=("hgrn2",)), 96, 8)


@pytest.fixture
def second_of_three() -> SequenceParallel:
    """A place in a group that is never spoken to."""
    return SequenceParallel(cast("ProcessGroup", None), rank=1, size=3)


def test_heads_that_cannot_be_divided_are_refused(second_of_three: SequenceParallel) -> None:
    heads = torch.zeros(1, 4, 4, 8)
    with pytest.raises(ConfigurationError, match="attention_heads=4 cannot be divided among 3 ranks"):
        rows_of_own_heads(heads, heads, heads, second_of_three)


def test_slices_shorter_than_a_convolution_reaches_are_refused(second_of_three: SequenceParallel) -> None:
    with pytest.raises(ConfigurationError, match="slices of 2 tokens are shorter than the 3"):
        from_previous_rank(torch.zeros(1, 2, 8), 3, second_of_three)


def test_generation_does_not_share_rows(second_of_three: SequenceParallel, miniature: HybridLM) -> None:
    with pytest.raises(CacheError, match="sequence_parallel with a cache"):
        miniature.hidden_states(
            torch.zeros(1, 3, dtype=torch.long), cache=miniature.new_cache(), sequence_parallel=second_of_three
        )


def test_a_group_of_one_is_no_group(miniature: HybridLM, tokens: torch.Tensor) -> None:
    alone = SequenceParallel(cast("ProcessGroup", None), rank=0, size=1)
    hidden = miniature.hidden_states(tokens, sequence_parallel=alone)
    assert torch.equal(hidden, miniature.hidden_states(tokens))
