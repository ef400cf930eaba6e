"""Causal depthwise convolution over a few tokens, with state and document boundaries."""

from __future__ import annotations

import torch
from torch import Tensor


def short_convolution(
    inputs: Tensor, weight: Tensor, *, state: Tensor | None = None, document_positions: Tensor | None = None
) -> Tensor:
    """`y_t = sum_j weight_j x_{t - taps + 1 + j}` for each channel, without bias or activation.

    `inputs` is `[batch, time, channels]`, `weight` is `[channels, 1, taps]` (fla's and causal_conv1d's layout),
    `state` `[batch, taps - 1, channels]` holds the inputs before the first (zeros when absent), and
    `document_positions` `[batch, time]` counts tokens since their document's start: taps that would reach
    before it read zero.
    """
    taps = weight.shape[-1]
    padded = _with_history(inputs, state, taps - 1)
    result = padded[:, taps - 1 :] * weight[:, 0, -1]
    for back in range(1, taps):
        earlier = padded[:, taps - 1 - back : padded.shape[1] - back]
        if document_positions is not None:
            earlier = earlier * (document_positions >= back).unsqueeze(-1)
        result = torch.addcmul(result, earlier, weight[:, 0, -1 - back])
    return result


def next_convolution_state(inputs: Tensor, taps: int, state: Tensor | None = None) -> Tensor:
    """The last `taps - 1` inputs, `[batch, taps - 1, channels]`: what the next call needs as `state`."""
    return _with_history(inputs[:, -(taps - 1) :], state, taps - 1)[:, -(taps - 1) :]


def _with_history(inputs: Tensor, state: Tensor | None, length: int) -> Tensor:
    if state is None:
        state = inputs.new_zeros(inputs.shape[0], length, inputs.shape[2])
    return torch.cat([state.to(inputs.dtype), inputs], dim=1)
