from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from model.ops.cross_entropy import chunked_cross_entropy


def test_value_and_gradients_equal_plain_cross_entropy_at_any_chunk_size() -> None:
    hidden, head = torch.randn(50, 16, requires_grad=True), nn.Linear(16, 40, bias=False)
    targets, weights = torch.randint(0, 40, (50,)), torch.rand(50)
    plain = (weights * cross_entropy(head(hidden), targets, reduction="none")).sum()
    expected = torch.autograd.grad(plain, [hidden, head.weight])
    for chunk_tokens in (7, 50, 1000):
        loss = chunked_cross_entropy(hidden, head, targets, weights, chunk_tokens)
        torch.testing.assert_close(loss, plain)
        for actual, wanted in zip(torch.autograd.grad(loss, [hidden, head.weight]), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_gradients_scale_with_what_follows_the_loss() -> None:
    hidden, head = torch.randn(5, 16, requires_grad=True), nn.Linear(16, 40, bias=False)
    targets, weights = torch.randint(0, 40, (5,)), torch.ones(5)
    (once,) = torch.autograd.grad(chunked_cross_entropy(hidden, head, targets, weights), hidden)
    (thrice,) = torch.autograd.grad(3 * chunked_cross_entropy(hidden, head, targets, weights), hidden)
    torch.testing.assert_close(thrice, 3 * once)


def test_the_head_is_called_as_a_module_and_frozen_parts_get_no_gradient() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.adapter = nn.Linear(16, 40), nn.Linear(16, 40)
            self.frozen.requires_grad_(False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.frozen(hidden) + self.adapter(hidden)
            return result

    head, hidden = Adapted(), torch.randn(20, 16)
    targets, weights = torch.randint(0, 40, (20,)), torch.ones(20)
    chunked_cross_entropy(hidden, head, targets, weights, 8).backward()
    assert head.frozen.weight.grad is None
    expected = torch.autograd.grad(cross_entropy(head(hidden), targets, reduction="sum"), head.adapter.weight)
    torch.testing.assert_close(head.adapter.weight.grad, expected[0])


def test_without_gradients_only_the_value_is_computed() -> None:
    hidden, head = torch.randn(20, 16), nn.Linear(16, 40)
    targets, weights = torch.randint(0, 40, (20,)), torch.ones(20)
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, head, targets, weights, 8)
        torch.testing.assert_close(loss, cross_entropy(head(hidden), targets, reduction="sum"))
