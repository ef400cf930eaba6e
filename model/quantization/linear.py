"""Linear layers over int8 rows and int4 groups. A row of the input gives the same result in any batch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

#: torch's engines for int8 matrix products on x86, best first.
_ENGINES = ("x86", "fbgemm")
_LEAST_SIZE = 1e-30


def int8_linear(rows: Tensor, scales: Tensor) -> nn.Module:
    """The fastest layer this machine has for int8 rows `[out, in]` with scales `[out]`.

    On x86 `Int8Linear`, which rounds its input to int8 too and sums in int32. Elsewhere `DequantizedLinear`, which
    computes in float32.
    """
    engine = torch.backends.quantized.engine
    return Int8Linear(rows, scales) if engine in _ENGINES else DequantizedLinear(rows, scales)


class Int8Linear(nn.Module):
    """torch's dynamically quantized product, with a range for each row of the input.

    torch takes one range over the whole batch: a row's result depends on its neighbours then, and rows of small
    values lose their digits beside rows of large ones. Here every row is first divided by its largest value, and a
    row that holds 1 and -1 is put under them, which makes torch's range the same every time.
    """

    probe: Tensor

    def __init__(self, rows: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.product = _dynamic_linear(rows, scales)
        probe = torch.zeros(1, rows.shape[1])
        probe[0, 0], probe[0, -1] = 1.0, -1.0
        self.register_buffer("probe", probe, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = hidden.reshape(-1, hidden.shape[-1]).float()
        sizes = rows.abs().amax(dim=-1, keepdim=True).clamp_min(_LEAST_SIZE)
        product: Tensor = self.product(torch.cat([rows / sizes, self.probe]))
        output = (product[:-1] * sizes).to(hidden.dtype)
        return output.view(*hidden.shape[:-1], -1)


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


class Int4Linear(nn.Module):
    """Int4 weights in groups of neighbouring inputs, `weight = (integer - 8) * scale + middle`; computes in bfloat16.

    `aten._weight_int4pack_mm_for_cpu`: on AVX2 its float32 variant takes 25 times as long (torch 2.13).
    """

    packed: Tensor
    scales_and_middles: Tensor

    def __init__(self, integers: Tensor, scales: Tensor, middles: Tensor, group: int) -> None:
        """`integers` `[out, in]` from 0 to 15, `scales` and `middles` `[out, in / group]`."""
        super().__init__()
        self.group = group
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers.int(), 1)
        both = torch.stack([scales.t(), middles.t()], dim=-1).to(torch.bfloat16).contiguous()
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales_and_middles", both, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        rows = hidden.reshape(-1, hidden.shape[-1]).to(torch.bfloat16)
        output: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.packed, self.group, self.scales_and_middles
        )
        return output.to(hidden.dtype).view(*hidden.shape[:-1], -1)


class JoinedLinear(nn.Module):
    """Quantized outputs, then outputs that need every digit."""

    exact: Tensor

    def __init__(self, quantized: nn.Module, exact: Tensor) -> None:
        super().__init__()
        self.quantized = quantized
        self.register_buffer("exact", exact, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return torch.cat([self.quantized(hidden), functional.linear(hidden, self.exact.to(hidden.dtype))], dim=-1)


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
