from __future__ import annotations

import torch

from model.ops.rotary import rotary_tables, rotate


def test_scores_depend_on_distance_alone() -> None:
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(query_position: int, key_position: int) -> float:
        turned = [
            rotate(part, rotary_tables(torch.tensor([position]), 16, 10_000.0))
            for part, position in ((query, query_position), (key, key_position))
        ]
        return float((turned[0] * turned[1]).sum())

    assert abs(score(9, 4) - score(105, 100)) < 1e-4
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_channels_turn_in_half_split_pairs() -> None:
    heads = torch.zeros(1, 1, 1, 4)
    heads[..., 0] = 1.0
    turned = rotate(heads, rotary_tables(torch.tensor([1]), 4, 10_000.0)).flatten()
    torch.testing.assert_close(turned, torch.tensor([torch.cos(torch.tensor(1.0)), 0, torch.sin(torch.tensor(1.0)), 0]))


def test_positions_may_differ_by_row() -> None:
    heads, positions = torch.randn(2, 3, 1, 8), torch.tensor([[0, 1, 2], [0, 0, 1]])
    turned = rotate(heads, rotary_tables(positions, 8, 100.0))
    torch.testing.assert_close(turned[1, 1], heads[1, 1])
