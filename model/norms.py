"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops import few_rows


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., width]` to the same shape and dtype."""
        if few_rows.takes_compiled(hidden) and self.weight.dtype == torch.float32:
            return few_rows.rms_norm(hidden, self.weight, self.eps)
        if hidden.device.type == "cpu" and hidden.dtype == self.weight.dtype:
            output: Tensor = _RMSNormOnCPU.apply(hidden, self.weight, self.eps)
            return output
        return functional.rms_norm(hidden, (hidden.shape[-1],), self.weight.to(hidden.dtype), self.eps)


class _RMSNormOnCPU(torch.autograd.Function):
    """Half the passes over memory of PyTorch's, which on CPU is put together from elementary operations."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        inverse = length.square_().div_(hidden.shape[-1]).add_(eps).rsqrt_()
        normed = hidden * inverse
        ctx.save_for_backward(normed, weight, inverse)
        output: Tensor = normed * weight
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, inverse = ctx.saved_tensors
        along = (grad * normed).flatten(0, -2)
        mean = (along @ weight).view(inverse.shape).div_(-weight.shape[0])
        grad_hidden = torch.mul(grad, weight).addcmul_(normed, mean).mul_(inverse)
        return grad_hidden, along.sum(dim=0), None
