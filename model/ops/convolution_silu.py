"""Causal depthwise convolution with bias and SiLU in one pass, as Mamba-2 and Gated DeltaNet have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Elements worked on together: 1 MiB, so that the several passes find them in the processor's cache.
TILE_ELEMENTS = 2**18


def convolution_silu(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    state: Tensor | None = None,
    document_positions: Tensor | None = None,
) -> Tensor:
    """`silu(bias + sum_j weight_j x_{t - taps + 1 + j})` for each channel.

    `inputs` is `[batch, time, channels]`, `weight` `[channels, 1, taps]` (causal_conv1d's layout), `bias`
    `[channels]`; `state` and `document_positions` are as in `short_convolution`. Of the intermediate results none
    is kept: the backward computes the few it needs again.
    """
    rows = weight[:, 0].t().to(inputs.dtype).contiguous()
    offset = torch.zeros_like(rows[0]) if bias is None else bias.to(inputs.dtype)
    if state is not None:
        state = state.to(inputs.dtype)
    if not torch.is_grad_enabled():
        return _forward(inputs, rows, offset, state, document_positions)
    output: Tensor = _ConvolutionSiLU.apply(inputs, rows, offset, state, document_positions)
    return output


class _ConvolutionSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        state: Tensor | None,
        document_positions: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, bias, state, document_positions)
        return _forward(inputs, weight, bias, state, document_positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, bias, state, document_positions = ctx.saved_tensors
        grad_inputs = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_state = None if state is None else torch.zeros_like(state)
        last = weight.shape[0] - 1
        for begin, end in _tiles(inputs):
            linear = _convolved(inputs, weight, bias, state, document_positions, begin, end)
            grad_linear = torch.ops.aten.silu_backward(grad[:, begin:end], linear)
            grad_bias += grad_linear.sum(dim=(0, 1))
            torch.mul(grad_linear, weight[last], out=grad_inputs[:, begin:end])
            grad_weight[last] += torch.mul(grad_linear, inputs[:, begin:end], out=linear).sum(dim=(0, 1))
            for tap in range(last):
                reach = last - tap
                visible = _visible(grad_linear, document_positions, reach, begin, end)
                first = max(begin, reach)
                here, there = visible[:, first - begin :], slice(first - reach, end - reach)
                if first < end:
                    grad_inputs[:, there].addcmul_(here, weight[tap])
                    grad_weight[tap] += (here * inputs[:, there]).sum(dim=(0, 1))
                if state is not None and grad_state is not None and begin < reach:
                    early, before = visible[:, : first - begin], slice(begin + tap, min(end, reach) + tap)
                    grad_state[:, before].addcmul_(early, weight[tap])
                    grad_weight[tap] += (early * state[:, before]).sum(dim=(0, 1))
        return grad_inputs, grad_weight, grad_bias, grad_state, None


def _forward(
    inputs: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, document_positions: Tensor | None
) -> Tensor:
    output = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    for begin, end in _tiles(inputs):
        linear = _convolved(inputs, weight, bias, state, document_positions, begin, end)
        output[:, begin:end] = functional.silu(linear, inplace=True)
    return output


def _convolved(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    document_positions: Tensor | None,
    begin: int,
    end: int,
) -> Tensor:
    """The convolution's results from `begin` to `end`, before SiLU."""
    last = weight.shape[0] - 1
    result = torch.addcmul(bias, inputs[:, begin:end], weight[last])
    for tap in range(last):
        reach = last - tap
        first = max(begin, reach)
        if first < end:
            source = inputs[:, first - reach : end - reach]
            source = _visible(source, document_positions, reach, first, end)
            result[:, first - begin :].addcmul_(source, weight[tap])
        if state is not None and begin < reach:
            source = state[:, begin + tap : min(end, reach) + tap]
            source = _visible(source, document_positions, reach, begin, min(end, reach))
            result[:, : reach - begin].addcmul_(source, weight[tap])
    return result


def _visible(source: Tensor, document_positions: Tensor | None, reach: int, begin: int, end: int) -> Tensor:
    """`source` `[batch, end - begin, channels]`, zero at tokens that would read over their document's start."""
    if document_positions is None:
        return source
    return source * (document_positions[:, begin:end, None] >= reach)


def _tiles(inputs: Tensor) -> Iterator[tuple[int, int]]:
    batch, time, channels = inputs.shape
    length = max(16, TILE_ELEMENTS // (batch * channels))
    return ((begin, min(begin + length, time)) for begin in range(0, time, length))
