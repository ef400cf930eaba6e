from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from model.ops import tiles
from model.ops.gated_norm import gated_rms_norm


def plain(hidden: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    gated = (hidden * silu(gate)).unflatten(-1, (groups, -1))
    return (gated * (gated.square().mean(dim=-1, keepdim=True) + eps).rsqrt()).flatten(-2) * weight


@pytest.mark.parametrize("tile_elements", [2**18, 96])
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_the_definition_with_all_gradients(
    groups: int, tile_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile_elements)
    hidden = torch.randn(2, 5, 32, requires_grad=True)
    wide = torch.randn(2, 5, 50, requires_grad=True)
    weight = torch.rand(32, requires_grad=True)
    gate = wide[..., 7:39]
    found = gated_rms_norm(hidden, gate, weight, groups, 1e-2)
    expected = plain(hidden.double(), gate.double(), weight.double(), groups, 1e-2)
    slope = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
    leaves = [hidden, wide, weight]
    pairs = zip(
        (found, *torch.autograd.grad(found, leaves, slope)),
        (expected.float(), *torch.autograd.grad(expected, leaves, slope.double())),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(gated_rms_norm(hidden, gate, weight, groups, 1e-2), found)


def test_computes_in_float32_and_returns_the_dtype_given() -> None:
    hidden, gate = torch.randn(3, 32).bfloat16(), torch.randn(3, 32).bfloat16()
    output = gated_rms_norm(hidden, gate, torch.ones(32), 1, 1e-5)
    exact = plain(hidden.float(), gate.float(), torch.ones(32), 1, 1e-5)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16())
