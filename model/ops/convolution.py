"""Causal depthwise convolution over a few tokens, with state and document boundaries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def short_convolution(
    inputs: Tensor, weight: Tensor, *, state: Tensor | None = None, document_positions: Tensor | None = None
) -> Tensor:
    """`y_t = sum_j weight_j x_{t - taps + 1 + j}` for each channel, without bias or activation.

    `inputs` is `[batch, time, channels]`, `weight` is `[channels, 1, taps]` (fla's and causal_conv1d's layout),
    `state` `[batch, taps - 1, channels]` holds the inputs before the first (zeros when absent), and
    `document_positions` `[batch, time]` counts tokens since their document's start: taps that would reach
    before it read zero.

    Sums of shifted rows, because channels are contiguous: on CPU twice as fast as `conv1d`, which wants them
    apart. Boundaries are corrected afterwards, at the few tokens that have one within reach.
    """
    taps = weight.shape[-1]
    padded = _with_history(inputs, state, taps - 1)
    output: Tensor = _ShiftedSum.apply(padded, weight[:, 0].t().contiguous(), document_positions)
    return output


def next_convolution_state(inputs: Tensor, taps: int, state: Tensor | None = None) -> Tensor:
    """The last `taps - 1` inputs, `[batch, taps - 1, channels]`: what the next call needs as `state`."""
    return _with_history(inputs[:, -(taps - 1) :], state, taps - 1)[:, -(taps - 1) :]


class _ShiftedSum(torch.autograd.Function):
    """`padded` is `[batch, taps - 1 + time, channels]`, `weight` `[taps, channels]`."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, document_positions: Tensor | None) -> Tensor:
        taps, time = weight.shape[0], padded.shape[1] - weight.shape[0] + 1
        weight = weight.to(padded.dtype)
        output = padded[:, taps - 1 :] * weight[-1]
        for tap in range(taps - 1):
            output.addcmul_(padded[:, tap : tap + time], weight[tap])
        crossings = _crossings(document_positions, taps)
        for tap, (row, column) in enumerate(crossings):
            output[row, column] -= padded[row, column + tap] * weight[tap]
        ctx.save_for_backward(padded, weight)
        ctx.crossings = crossings
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        padded, weight = ctx.saved_tensors
        taps, time = weight.shape[0], grad.shape[1]
        grad_padded, grad_weight = torch.zeros_like(padded), torch.empty_like(weight)
        product = torch.empty_like(grad)
        for tap in range(taps):
            grad_padded[:, tap : tap + time].addcmul_(grad, weight[tap])
            torch.mul(grad, padded[:, tap : tap + time], out=product)
            torch.sum(product, dim=(0, 1), out=grad_weight[tap])
        for tap, (row, column) in enumerate(ctx.crossings):
            crossing = grad[row, column]
            grad_padded[row, column + tap] -= crossing * weight[tap]
            grad_weight[tap] -= (crossing * padded[row, column + tap]).sum(dim=0)
        return grad_padded, grad_weight, None


def _crossings(document_positions: Tensor | None, taps: int) -> list[tuple[Tensor, Tensor]]:
    """For each tap but the last, rows and times of the tokens whose document starts later than it reaches."""
    if document_positions is None:
        return []
    found = [(document_positions < taps - 1 - tap).nonzero() for tap in range(taps - 1)]
    return [(places[:, 0], places[:, 1]) for places in found]


def _with_history(inputs: Tensor, state: Tensor | None, length: int) -> Tensor:
    if state is None:
        state = inputs.new_zeros(inputs.shape[0], length, inputs.shape[2])
    return torch.cat([state.to(inputs.dtype), inputs], dim=1)
