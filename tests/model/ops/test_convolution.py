from __future__ import annotations

import torch
from torch.nn.functional import conv1d, pad

from model.ops.convolution import next_convolution_state, short_convolution

TAPS = 4


def test_equals_a_padded_depthwise_convolution() -> None:
    inputs, weight = torch.randn(2, 17, 6), torch.randn(6, 1, TAPS)
    expected = conv1d(pad(inputs.transpose(1, 2), (TAPS - 1, 0)), weight, groups=6).transpose(1, 2)
    torch.testing.assert_close(short_convolution(inputs, weight), expected)


def test_gradients_are_those_of_the_definition() -> None:
    inputs = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, TAPS, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, TAPS - 1, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2], list(range(9))])
    assert torch.autograd.gradcheck(lambda x, w, s: short_convolution(x, w, state=s), (inputs, weight, state))
    assert torch.autograd.gradcheck(
        lambda x, w: short_convolution(x, w, document_positions=positions), (inputs, weight)
    )


def test_token_by_token_with_state_equals_the_whole() -> None:
    inputs, weight = torch.randn(2, 11, 6), torch.randn(6, 1, TAPS)
    state, outputs = None, []
    for token in inputs.split(1, dim=1):
        outputs.append(short_convolution(token, weight, state=state))
        state = next_convolution_state(token, TAPS, state)
    torch.testing.assert_close(torch.cat(outputs, dim=1), short_convolution(inputs, weight))


def test_taps_do_not_reach_over_a_document_boundary() -> None:
    inputs, weight = torch.randn(1, 10, 6), torch.randn(6, 1, TAPS)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]])
    packed = short_convolution(inputs, weight, document_positions=positions)
    torch.testing.assert_close(packed[:, 6:], short_convolution(inputs[:, 6:], weight))
