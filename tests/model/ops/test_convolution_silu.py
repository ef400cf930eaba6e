from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from model.ops import convolution_silu as module
from model.ops.convolution_silu import convolution_silu

CHANNELS, TAPS = 20, 4


def plain(inputs: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None) -> Tensor:
    """PyTorch's convolution over `[batch, channels, time]`, with the history in front."""
    history = inputs.new_zeros(inputs.shape[0], TAPS - 1, CHANNELS) if state is None else state
    padded = torch.cat([history, inputs], dim=1).transpose(1, 2)
    return silu(conv1d(padded, weight, bias, groups=CHANNELS)).transpose(1, 2)


def assert_same_with_gradients(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    slope = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).view_as(expected)
    pairs = zip(
        (found, *torch.autograd.grad(found, leaves, slope)),
        (expected, *torch.autograd.grad(expected, leaves, slope)),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.fixture(params=[2**18, 2 * CHANNELS * 16], ids=["one tile", "many tiles"])
def tile_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", request.param)


@pytest.mark.usefixtures("tile_elements")
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("time", [1, 2, 3, 50])
def test_equals_convolution_bias_and_silu_with_all_gradients(time: int, with_bias: bool, with_state: bool) -> None:
    # A slice of a wider row, as the mixer gives it.
    wide = torch.randn(2, time, CHANNELS + 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(CHANNELS, 1, TAPS, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CHANNELS, dtype=torch.float64, requires_grad=True) if with_bias else None
    state = torch.randn(2, TAPS - 1, CHANNELS, dtype=torch.float64, requires_grad=True) if with_state else None
    inputs = wide[..., 3 : 3 + CHANNELS]
    found = convolution_silu(inputs, weight, bias, state=state)
    leaves = [leaf for leaf in (wide, weight, bias, state) if leaf is not None]
    assert_same_with_gradients(found, plain(inputs, weight, bias, state), leaves)
    with torch.no_grad():
        assert torch.equal(convolution_silu(inputs, weight, bias, state=state), found)


@pytest.mark.usefixtures("tile_elements")
def test_documents_are_convolved_as_if_alone() -> None:
    inputs = torch.randn(1, 50, CHANNELS, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(CHANNELS, 1, TAPS, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CHANNELS, dtype=torch.float64, requires_grad=True)
    lengths = (17, 1, 2, 30)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    alone = torch.cat([plain(document, weight, bias) for document in inputs.split(lengths, dim=1)], dim=1)
    together = convolution_silu(inputs, weight, bias, document_positions=positions)
    assert_same_with_gradients(together, alone, [inputs, weight, bias])
