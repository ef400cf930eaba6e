"""The linear layer of every projection: torch's, with a faster matrix product where the machine has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops import few_rows

# Below this many rows a product is bound by reading the weight, and oneDNN's reordering of it costs more than it saves.
_LEAST_ROWS = 32


class Linear(nn.Linear):
    """`nn.Linear` in parameters and results (to rounding).

    On CPU torch gives float32 products to MKL. Those of many rows go to oneDNN instead, which is up to a fifth faster
    on processors other than Intel's, and those of a few rows, without gradients, to a compiled loop that is more than
    twice as fast.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        if self.bias is None and few_rows.takes_compiled(hidden) and few_rows.is_readable(self.weight):
            return few_rows.product(hidden, self.weight)
        if _takes_onednn(hidden, self.weight):
            output: Tensor = _Product.apply(hidden, self.weight, self.bias)
            return output
        return functional.linear(hidden, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """`hidden @ weight.T + bias`; the weight's gradient stays with MKL, which is the faster one there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return _onednn(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            _onednn(grad, weight.t()) if for_hidden else None,
            rows.t() @ hidden.reshape(-1, hidden.shape[-1]) if for_weight else None,
            rows.sum(dim=0) if for_bias else None,
        )


def _onednn(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return output


def _takes_onednn(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the product is float32 on CPU, long enough, and run now rather than traced, counted or autocast."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and hidden.numel() >= _LEAST_ROWS * hidden.shape[-1]
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        # Modes that look at every operation (tracers, FLOP counters, fake tensors) know torch's own.
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch.jit.is_tracing()
    )
