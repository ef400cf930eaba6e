"""RMS normalisation followed by a SiLU gate, as Gated DeltaNet has it, in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops.tiles import row_tiles


def norm_then_gate(hidden: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm(hidden) * weight * silu(gate)` over the last dimension (fla's `FusedRMSNormGated`).

    `hidden` and `gate` are `[..., width]`, `weight` `[width]`. Computes in float32; the output has the dtype of
    `gate`. The backward makes what it needs anew.
    """
    rows = (part.reshape(-1, part.shape[-1]).float() for part in (hidden, gate))
    output: Tensor = _NormThenGate.apply(*rows, weight.float(), eps)
    return output.view(hidden.shape).to(gate.dtype)


class _NormThenGate(torch.autograd.Function):
    """`hidden` and `gate` are `[rows, width]`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        output = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        inverse = hidden.new_empty(hidden.shape[0], 1)
        for tile in row_tiles(hidden):
            length = torch.linalg.vector_norm(hidden[tile], dim=-1, keepdim=True)
            inverse[tile] = length.square_().div_(hidden.shape[-1]).add_(eps).rsqrt_()
            activation = functional.silu(gate[tile]).mul_(weight).mul_(inverse[tile])
            torch.mul(hidden[tile], activation, out=output[tile])
        ctx.save_for_backward(hidden, gate, weight, inverse)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gate, weight, inverse = ctx.saved_tensors
        grad_hidden, grad_gate = torch.empty_like(hidden), torch.empty_like(gate)
        grad_weight = torch.zeros_like(weight)
        for tile in row_tiles(hidden):
            normed = hidden[tile] * inverse[tile]
            grad_normed = functional.silu(gate[tile]).mul_(grad[tile])
            along = grad_normed * normed
            grad_weight += along.sum(dim=0)
            mean = torch.mv(along, weight).div_(-weight.shape[0]).unsqueeze(-1)
            torch.mul(grad_normed.mul_(weight).addcmul_(normed, mean), inverse[tile], out=grad_hidden[tile])
            grad_gate[tile] = torch.ops.aten.silu_backward(normed.mul_(weight).mul_(grad[tile]), gate[tile])
        return grad_hidden, grad_gate, grad_weight, None
