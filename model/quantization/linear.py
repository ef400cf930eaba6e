"""Linear layers over int8 rows."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

#: torch's engines for int8 matrix products on x86, best first.
_ENGINES = ("x86", "fbgemm")


def int8_linear(rows: Tensor, scales: Tensor) -> nn.Module:
    """The fastest layer this machine has for int8 rows `[out, in]` with scales `[out]`.

    On x86 torch's dynamically quantized linear: inputs are rounded to int8 on the fly and products
    summed in int32. Elsewhere `DequantizedLinear`, which computes in float32.
    """
    engine = torch.backends.quantized.engine
    return _dynamic_linear(rows, scales) if engine in _ENGINES else DequantizedLinear(rows, scales)


class DequantizedLinear(nn.Module):
    """Int8 rows turned into float32 for each product: the memory of int8 at float32's speed and range.

    (`aten._weight_int8pack_mm` would do the same in one kernel, but in float32 on AVX2 it takes over thirty
    times as long as a float32 product; benchmarks/quantization.py measures it.)
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, rows: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return functional.linear(hidden, self.rows.to(hidden.dtype)) * self.scales.to(hidden.dtype)


def _dynamic_linear(rows: Tensor, scales: Tensor) -> nn.Module:
    """torch's own module, given our rows; it is deprecated in favour of torchao, whose CPU path is slower."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        from torch.ao.nn.quantized.dynamic import Linear

        zeros = torch.zeros(len(scales), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(rows, scales.double(), zeros, 0)
        layer = Linear(rows.shape[1], rows.shape[0], bias_=False)
        layer.set_weight_bias(weight, None)
    result: nn.Module = layer
    return result
