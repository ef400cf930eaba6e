from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from model.ops import tiles
from model.ops.norm_then_gate import norm_then_gate


@pytest.mark.parametrize("tile", [2**18, 40])
def test_equals_its_definition_with_every_gradient(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile)
    parts = [torch.randn(2, 5, 3, 16), torch.randn(2, 5, 3, 16), torch.rand(16)]
    leaves = [part.clone().requires_grad_() for part in parts]
    twins = [part.double().requires_grad_() for part in parts]
    found = norm_then_gate(*leaves, 1e-5)
    hidden, gate, weight = twins
    expected = hidden * (hidden.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt() * weight * silu(gate)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    slopes = torch.randn_like(found)
    gradients = torch.autograd.grad(found, leaves, slopes)
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, twins, slopes.double()), strict=True):
        torch.testing.assert_close(gradient.double(), exact, atol=1e-5, rtol=1e-5)


def test_takes_rows_that_are_not_contiguous_and_keeps_the_gates_dtype() -> None:
    hidden, gate = torch.randn(2, 6, 4, 16), torch.randn(2, 4, 6, 16).bfloat16()
    output = norm_then_gate(hidden.transpose(1, 2), gate, torch.ones(16), 1e-6)
    expected = torch.nn.functional.rms_norm(hidden.transpose(1, 2), (16,), eps=1e-6) * silu(gate.float())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.03, rtol=0.01)
