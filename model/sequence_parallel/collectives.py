"""Exchanges between the processes that share rows, with gradients.

Each is its own mirror: the gradient of what was received goes back the way it came. Every process takes part in every
exchange, in the same order, also where it has nothing to send: a graph that differed between ranks would hang them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.errors import ConfigurationError
from model.ops.untraced import untraced
from model.sequence_parallel.context import SequenceParallel


def gather(tensor: Tensor, context: SequenceParallel) -> Tensor:
    """The tensors of all ranks, `[ranks, ...]`; without gradients."""
    return start_gather(tensor, context).wait()


class Gathering:
    """A gather under way."""

    def __init__(self, gathered: Tensor, work: Any) -> None:
        self._gathered, self._work = gathered, work

    def wait(self) -> Tensor:
        """The tensors of all ranks, `[ranks, ...]`."""
        self._work.wait()
        return self._gathered


def start_gather(tensor: Tensor, context: SequenceParallel) -> Gathering:
    """Begin `gather`, to compute something else meanwhile."""
    gathered = tensor.new_empty(context.size, *tensor.shape)
    work = distributed.all_gather(list(gathered.unbind()), tensor.contiguous(), group=context.group, async_op=True)
    return Gathering(gathered, work)


@untraced
def exchange(parts: Tensor, context: SequenceParallel) -> Tensor:
    """`parts` `[ranks, ...]`, one for each rank, to the parts that all ranks had for this one, `[ranks, ...]`."""
    exchanged: Tensor = _Exchange.apply(parts, context)
    return exchanged


@untraced
def from_previous_rank(rows: Tensor, count: int, context: SequenceParallel) -> Tensor:
    """The last `count` tokens of the previous slice, `[batch, count, channels]`; zeros before the first slice.

    `rows` `[batch, time, channels]` is the own slice. Raises `ConfigurationError` when slices are shorter than that.
    """
    if rows.shape[1] < count:
        raise ConfigurationError(
            f"slices of {rows.shape[1]} tokens are shorter than the {count} that a convolution reaches back: use "
            "longer rows or a smaller sequence_parallel"
        )
    received: Tensor = _Shift.apply(rows[:, rows.shape[1] - count :], context)
    return received


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, context: SequenceParallel) -> Tensor:
        ctx.context = context
        return _all_to_all(parts, context)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grad, ctx.context), None


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, context: SequenceParallel) -> Tensor:
        ctx.context = context
        return _shifted(rows, context, by=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _shifted(grad, ctx.context, by=-1), None


def _all_to_all(parts: Tensor, context: SequenceParallel) -> Tensor:
    parts = parts.contiguous()
    exchanged = torch.empty_like(parts)
    distributed.all_to_all_single(exchanged, parts, group=context.group)
    return exchanged


def _shifted(rows: Tensor, context: SequenceParallel, by: int) -> Tensor:
    """The `rows` of the rank `by` places before; zeros where there is none."""
    sent, received = ([0] * context.size for _ in range(2))
    if 0 <= context.rank + by < context.size:
        sent[context.rank + by] = rows.numel()
    if 0 <= context.rank - by < context.size:
        received[context.rank - by] = rows.numel()
    result = torch.zeros(rows.shape, dtype=rows.dtype, device=rows.device)
    distributed.all_to_all_single(
        result.flatten()[: sum(received)],
        rows.flatten()[: sum(sent)],
        output_split_sizes=received,
        input_split_sizes=sent,
        group=context.group,
    )
    return result
