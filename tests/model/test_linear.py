from __future__ import annotations

import pytest
import torch
from torch import nn

from model import linear
from model.linear import Linear


@pytest.mark.parametrize("bias", [False, True])
def test_equal_to_torchs_in_results_and_gradients(bias: bool) -> None:
    ours, torchs = Linear(48, 40, bias=bias), nn.Linear(48, 40, bias=bias)
    torchs.load_state_dict(ours.state_dict())
    hidden = torch.randn(3, 50, 48, requires_grad=True)
    assert linear._takes_onednn(hidden, ours.weight)
    weights = torch.randn(3, 50, 40)
    results = []
    for layer in (ours, torchs):
        output = layer(hidden)
        results.append([output, *torch.autograd.grad((output * weights).sum(), [hidden, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_same_bits_every_time() -> None:
    layer, hidden = Linear(96, 80, bias=False), torch.randn(64, 96)
    with torch.no_grad():
        assert torch.equal(layer(hidden), layer(hidden))
        assert torch.equal(layer(hidden[:1]), layer(hidden[:1]))


def test_frozen_weights_get_no_gradient() -> None:
    layer = Linear(16, 16, bias=False).requires_grad_(False)
    hidden = torch.randn(64, 16, requires_grad=True)
    layer(hidden).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(hidden.grad, layer.weight.sum(dim=0).expand(64, 16))


def test_autocast_and_other_dtypes_go_to_torch() -> None:
    layer, hidden = Linear(32, 32), torch.randn(64, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(hidden).dtype == torch.bfloat16
    assert layer.double()(hidden.double()).dtype == torch.float64


def test_exported_as_torchs_linear() -> None:
    graph = torch.export.export(Linear(32, 32).eval(), (torch.randn(64, 32),)).graph
    assert any(node.target is torch.ops.aten.linear.default for node in graph.nodes)
