"""The parts of a block: feed-forward, and the two residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig
from model.linear import Linear
from model.mixers import MIXERS
from model.norms import RMSNorm
from model.ops import few_rows
from model.plain_modules import are_plain, has_hooks, weights_of
from model.sequence import Sequence


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, time, width]` to the same shape."""
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Block(nn.Module):
    """`x += mixer(norm(x))`, then `x += feed_forward(norm(x))`; names are fla's.

    `feed_forward_chunk_tokens`: see `HybridLM`.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.feed_forward_chunk_tokens: int | None = None
        self.attn_norm = RMSNorm(config.width, config.norm_eps)
        self.attn = MIXERS[config.mixer_kinds[layer]](config, layer)
        self.has_feed_forward = config.has_feed_forward(layer)
        if self.has_feed_forward:
            self.mlp_norm = RMSNorm(config.width, config.norm_eps)
            self.mlp = SwiGLU(config.width, config.feed_forward_width)

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """`[batch, time, width]` to the same shape; to `[batch, 1, width]` where the sequence wants the last alone."""
        mixed = self.attn(self.attn_norm(hidden), sequence, lower_bound)
        hidden = hidden[:, -1:] + mixed[:, -1:] if sequence.last_alone else hidden + mixed
        return self._fed_forward(hidden) if self.has_feed_forward else hidden

    def _fed_forward(self, hidden: Tensor) -> Tensor:
        norm, mlp = self.mlp_norm, self.mlp
        if few_rows.takes_compiled(hidden) and type(mlp) is SwiGLU and not has_hooks(mlp) and are_plain(norm):
            projections = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            if are_plain(*projections):
                return few_rows.feed_forward(hidden, norm.weight, norm.eps, *weights_of(projections))
        chunk = self.feed_forward_chunk_tokens
        if chunk is not None and torch.is_grad_enabled() and hidden.shape[1] > chunk:
            parts = [checkpoint(self._branch, part, use_reentrant=False) for part in hidden.split(chunk, dim=1)]
            return torch.cat(parts, dim=1)
        return self._branch(hidden)

    def _branch(self, hidden: Tensor) -> Tensor:
        output: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return output
