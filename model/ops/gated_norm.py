"""RMS normalisation after a SiLU gate, as Mamba-2 has it, in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops.tiles import row_tiles


def gated_rms_norm(hidden: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """`rms_norm(hidden * silu(gate)) * weight`, the mean square taken over each of `groups` equal parts of a row.

    `hidden` and `gate` are `[..., width]`, `weight` `[width]` (mamba_ssm's `RMSNormGated`, norm after the gate).
    Computes in float32; the output has the shape and dtype of `hidden`. The backward makes what it needs anew.
    """
    rows = hidden.reshape(-1, hidden.shape[-1]).float(), gate.reshape(-1, gate.shape[-1]).float()
    if torch.is_grad_enabled():
        output: Tensor = _GatedNorm.apply(*rows, weight.float(), groups, eps)
    else:
        output = _forward(*rows, weight.float(), groups, eps)[0]
    return output.view(hidden.shape).to(hidden.dtype)


class _GatedNorm(torch.autograd.Function):
    """`hidden` and `gate` are `[rows, width]`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
        output, inverse = _forward(hidden, gate, weight, groups, eps)
        ctx.save_for_backward(hidden, gate, weight, inverse)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gate, weight, inverse = ctx.saved_tensors
        groups = inverse.shape[1]
        grad_hidden, grad_gate = (torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) for _ in range(2))
        grad_weight = torch.zeros_like(weight)
        for tile in row_tiles(hidden):
            activation = functional.silu(gate[tile])
            normed = _by_group(hidden[tile] * activation, groups).mul_(inverse[tile])
            along = _by_group(grad[tile] * normed.flatten(1), groups)
            grad_weight += along.flatten(1).sum(dim=0)
            mean = torch.linalg.vecdot(along, _by_group(weight, groups)).div_(-normed.shape[-1]).unsqueeze(-1)
            scaled = _by_group(grad[tile] * weight, groups)
            grad_gated = scaled.addcmul_(normed, mean).mul_(inverse[tile]).flatten(1)
            torch.mul(grad_gated, activation, out=grad_hidden[tile])
            grad_activation = grad_gated.mul_(hidden[tile])
            grad_gate[tile] = torch.ops.aten.silu_backward(grad_activation, gate[tile])
        return grad_hidden, grad_gate, grad_weight, None, None


def _forward(hidden: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Outputs `[rows, width]` and inverse root mean squares `[rows, groups, 1]`."""
    output = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    inverse = hidden.new_empty(hidden.shape[0], groups, 1)
    for tile in row_tiles(hidden):
        gated = _by_group(functional.silu(gate[tile]).mul_(hidden[tile]), groups)
        length = torch.linalg.vector_norm(gated, dim=-1, keepdim=True)
        inverse[tile] = length.square_().div_(gated.shape[-1]).add_(eps).rsqrt_()
        torch.mul(gated.mul_(inverse[tile]).flatten(1), weight, out=output[tile])
    return output, inverse


def _by_group(tensor: Tensor, groups: int) -> Tensor:
    split: Tensor = tensor.unflatten(-1, (groups, -1))
    return split
