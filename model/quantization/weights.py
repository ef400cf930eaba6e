"""Quantized matrices: how they are made, what of them is stored, and the layers that compute with them."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from model.quantization.linear import Int4Linear, int8_linear

#: Neighbouring inputs that share a scale in int4.
GROUP = 32
#: What the int4 kernel asks of the number of outputs.
_INT4_OUTPUTS = 16
_INT4_LEVELS = 15


class Int8Rows(NamedTuple):
    """Int8 rows `[out, in]` with a float32 scale each: `weight ≈ rows * scales[:, None]`."""

    rows: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Symmetric, `scale = max |row| / 127`."""
        return cls(*quantize_rows(weight))

    def stored(self) -> dict[str, Tensor]:
        """The tensors of a file, by what follows the layer's name."""
        return {".weight": self.rows, ".weight_scale": self.scales}

    @classmethod
    def read(cls, tensors: dict[str, Tensor], name: str, shape: tuple[int, int]) -> Self:
        """Take layer `name` of `shape` out of a file's tensors; KeyError when absent, ValueError when misshapen."""
        found = cls(tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.weight_scale"))
        _require(found.rows, torch.int8, shape)
        _require(found.scales, torch.float32, shape[:1])
        return found

    def layer(self) -> nn.Module:
        """A layer that computes with it."""
        return int8_linear(self.rows, self.scales)


class Int4Groups(NamedTuple):
    """Two int4 weights a byte `[out, in / 2]`, the earlier one low, with a scale and a middle for each group.

    `weight ≈ (integer - 8) * scale + middle`; scales and middles are `[out, in / GROUP]` in bfloat16.
    """

    packed: Tensor
    scales: Tensor
    middles: Tensor

    @classmethod
    def fits(cls, shape: tuple[int, int]) -> bool:
        """Whether the kernel can take a matrix of this shape."""
        return shape[0] % _INT4_OUTPUTS == 0 and shape[1] % GROUP == 0

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Each group from its least to its largest weight in 16 levels."""
        integers, scales, middles = quantize_groups(weight)
        return cls(integers[:, 0::2] | integers[:, 1::2] << 4, scales, middles)

    def stored(self) -> dict[str, Tensor]:
        """The tensors of a file, by what follows the layer's name."""
        return {".weight": self.packed, ".weight_scale": self.scales, ".weight_middle": self.middles}

    @classmethod
    def read(cls, tensors: dict[str, Tensor], name: str, shape: tuple[int, int]) -> Self:
        """As `Int8Rows.read`."""
        rows, columns = shape
        found = cls(*(tensors.pop(name + suffix) for suffix in (".weight", ".weight_scale", ".weight_middle")))
        _require(found.packed, torch.uint8, (rows, columns // 2))
        _require(found.scales, torch.bfloat16, (rows, columns // GROUP))
        _require(found.middles, torch.bfloat16, (rows, columns // GROUP))
        return found

    def integers(self) -> Tensor:
        """`[out, in]`, from 0 to 15."""
        return torch.stack([self.packed & 15, self.packed >> 4], dim=-1).flatten(1)

    def layer(self) -> nn.Module:
        """A layer that computes with it."""
        return Int4Linear(self.integers(), self.scales, self.middles, GROUP)


Quantized = Int8Rows | Int4Groups


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 rows and their float32 scales: `weight ≈ rows * scales[:, None]`. [out, in] -> [out, in], [out]"""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1) / 127
    # A row of zeros has no scale; any will do.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integers 0 … 15 `[out, in]` as uint8, and bfloat16 scales and middles `[out, in / GROUP]`.

    The integers are chosen for the scales and middles as they are stored, so that rounding these costs less than
    a level.
    """
    groups = weight.detach().float().unflatten(1, (-1, GROUP))
    least, most = groups.amin(dim=-1), groups.amax(dim=-1)
    scales = ((most - least) / _INT4_LEVELS).to(torch.bfloat16)
    # A group of equal weights has no scale; any will do.
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    middles = (least + 8 * scales.float()).to(torch.bfloat16)
    integers = (groups - middles.float().unsqueeze(-1)) / scales.float().unsqueeze(-1) + 8
    return integers.round().clamp(0, _INT4_LEVELS).to(torch.uint8).flatten(1), scales, middles


def _require(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"holds {tensor.dtype} {tuple(tensor.shape)} where {dtype} {shape} is needed")
