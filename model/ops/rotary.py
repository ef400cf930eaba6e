"""Rotary position embedding, half-split (GPT-NeoX) form: channel i turns with channel i + head_dim / 2."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.ops import few_rows


class RotaryTables(NamedTuple):
    """Cosine and sine, `[batch or 1, time, 1, head_dim]`; the sine's first half carries the minus sign."""

    cosine: Tensor
    sine: Tensor

    def last(self) -> RotaryTables:
        """The last token's."""
        return RotaryTables(self.cosine[:, -1:], self.sine[:, -1:])


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> RotaryTables:
    """Tables for `positions` `[time]` or `[batch, time]` (Su et al. 2021, arXiv:2104.09864), in float32."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.float().unsqueeze(-1) * theta**-exponents
    if positions.dim() == 1:
        angles = angles.unsqueeze(0)
    cosine, sine = angles.cos(), angles.sin()
    return RotaryTables(torch.cat([cosine, cosine], dim=-1).unsqueeze(2), torch.cat([-sine, sine], dim=-1).unsqueeze(2))


def rotate(heads: Tensor, tables: RotaryTables) -> Tensor:
    """`heads` `[batch, time, heads, head_dim]` turned by each token's position; dtype kept."""
    one_position = tables.cosine.shape[0] == tables.cosine.shape[1] == 1
    if one_position and few_rows.takes_compiled(heads[:, :, 0], *tables):
        return few_rows.rotated(heads, *tables)
    swapped = torch.roll(heads, heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * tables.cosine, swapped, tables.sine).to(heads.dtype)
