from __future__ import annotations

import pytest
import torch

from model import ConfigurationError, preset
from model.sequence_parallel import check_sequence_parallel, own_slice, slice_batch


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
