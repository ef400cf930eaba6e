"""The state before a slice, from what the slices before it do to a state.

Over a slice a linear recurrence is `S_after = A S_before + B`, with `A` the slice's whole decay (a number or a column a
head, or a matrix) and `B` the state after the slice had it begun empty. All slices find their `A` and `B` at once; one
gather later each rank has its own `S_before` (as in LASP-2, Sun et al. 2025, arXiv:2502.07563, and ZeCO,
arXiv:2507.01004). The backward is the same from the other end: with `g` the gradient of `S_before` from within a slice,
that of `S_after` is `h = g' + A'^T h'`, where `'` is the next slice's.

`A` is `[batch, heads, 1 or key_dim, 1]` where it multiplies element by element, else a matrix a head, `[batch, heads,
key_dim, key_dim]`; states are `[batch, heads, key_dim, value_dim]`. Where a document starts in a slice, `A` is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.sequence_parallel.collectives import gather, start_gather
from model.sequence_parallel.context import SequenceParallel


class StateExchange:
    """One recurrence's exchange: what the own slice does to a state has been sent when this is made."""

    def __init__(self, transition: Tensor, local_state: Tensor, context: SequenceParallel) -> None:
        """Send `A` and `B` of the own slice, in float32."""
        self._rank = context.rank
        self._shapes = transition.shape, local_state.shape
        self._gathering = start_gather(torch.cat([transition.flatten(), local_state.flatten()]), context)

    def finish(self) -> tuple[Tensor, Tensor]:
        """The state before the own slice (zeros before the first); all ranks' `A`, for `gradient_after`."""
        shape, state_shape = self._shapes
        sent = self._gathering.wait()
        transitions, states = sent.split([shape.numel(), state_shape.numel()], dim=1)
        transitions = transitions.reshape(-1, *shape)
        state = sent.new_zeros(state_shape)
        for rank in range(self._rank):
            state = _applied(transitions[rank], state) + states[rank].view(state_shape)
        return state, transitions


def gradient_after(grad_before: Tensor, transitions: Tensor, context: SequenceParallel) -> Tensor:
    """The gradient of the state after the own slice from all later ones; zeros after the last.

    `grad_before` is the gradient of the state before the own slice from within it alone, `transitions` what
    `StateExchange.finish` gave.
    """
    grads = gather(grad_before, context)
    grad = torch.zeros_like(grads[0])
    for rank in range(context.size - 1, context.rank, -1):
        transition = transitions[rank]
        grad = grads[rank] + _applied(transition.transpose(-1, -2) if _is_matrix(transition) else transition, grad)
    return grad


def state_before_slice(transition: Tensor, local_state: Tensor, context: SequenceParallel) -> Tensor:
    """The state before the own slice, with gradients: for kernels that take an initial state and no exchange."""
    state: Tensor = _StateBeforeSlice.apply(transition, local_state, context)
    return state


class _StateBeforeSlice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transition: Tensor, local_state: Tensor, context: SequenceParallel) -> Tensor:
        state, transitions = StateExchange(transition, local_state, context).finish()
        ctx.context = context
        ctx.save_for_backward(state, transitions)
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        state, transitions = ctx.saved_tensors
        grad_after = gradient_after(grad, transitions, ctx.context)
        if _is_matrix(transitions):
            return grad_after @ state.transpose(-1, -2), grad_after, None
        return (grad_after * state).sum_to_size(transitions.shape[1:]), grad_after, None


def _is_matrix(transition: Tensor) -> bool:
    return transition.shape[-1] > 1


def _applied(transition: Tensor, state: Tensor) -> Tensor:
    return transition @ state if _is_matrix(transition) else transition * state
