"""The two graphs: one token, and a chunk of tokens of which the first `count` are real."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.exports.onnx.mixers import GraphMixer, graph_mixer
from model.exports.onnx.parts import GraphNorm, Projection, Projections, StateSpec, Tokens
from model.language_model import HybridLM
from model.layers import Block
from model.ops.rotary import rotary_tables

CHUNK_TOKENS = 64


class GraphBlock(nn.Module):
    """A block with its mixer's states."""

    def __init__(self, block: Block, config: ModelConfig, lower_bound: Tensor | None) -> None:
        super().__init__()
        self.attn_norm = GraphNorm(block.attn_norm)
        self.attn: GraphMixer = graph_mixer(block.attn, config, lower_bound)
        self.has_feed_forward = block.has_feed_forward
        if block.has_feed_forward:
            project = Projections(f"layers.{block.attn.layer}.mlp")
            self.mlp_norm = GraphNorm(block.mlp_norm)
            self.gate_proj = project(block.mlp.gate_proj, "gate_proj")
            self.up_proj = project(block.mlp.up_proj, "up_proj")
            self.down_proj = project(block.mlp.down_proj, "down_proj")

    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """`hidden` `[batch, time, width]`; gives it back, then the states after the call."""
        mixed, *after = self.attn(self.attn_norm(hidden), tokens, *states)
        hidden = hidden + mixed
        if self.has_feed_forward:
            normed = self.mlp_norm(hidden)
            hidden = hidden + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))
        return (hidden, *after)


class GraphModel(nn.Module):
    """The layers both graphs run."""

    def __init__(self, model: HybridLM) -> None:
        super().__init__()
        self.config = model.config
        self.head: Projection = Projections("the model")(model.lm_head, "lm_head")
        if not model.config.tie_embeddings:
            self.embeddings = nn.Parameter(model.embeddings.weight.detach().float().clone(), requires_grad=False)
        bounds = model._lower_bounds()
        self.layers = nn.ModuleList(
            GraphBlock(block, model.config, bound) for block, bound in zip(model._blocks(), bounds, strict=True)
        )
        self.norm = GraphNorm(model.norm)

    @property
    def blocks(self) -> list[GraphBlock]:
        """The layers, typed."""
        return [block for block in self.layers if isinstance(block, GraphBlock)]

    @property
    def states(self) -> list[StateSpec]:
        """Every layer's states, first to last."""
        return [state for block in self.blocks for state in block.attn.states]

    def run(
        self, tokens: Tensor, position: Tensor, count: Tensor | int, wanted: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Logits of the `wanted` positions (all of them when None), then the states after the call."""
        time = tokens.shape[1]
        index = torch.arange(time)
        rotary = rotary_tables(position + index, self.config.head_dim, self.config.rope_theta)
        real = None if isinstance(count, int) else (index < count).float().view(1, -1, 1)
        call = Tokens(time, rotary, real, count)
        hidden = self._embed(tokens)
        after: list[Tensor] = []
        for block in self.blocks:
            own = len(block.attn.states)
            hidden, *new = block(hidden, call, *states[len(after) : len(after) + own])
            after += new
        if wanted is not None:
            hidden = hidden.index_select(1, wanted)
        return (self.head(self.norm(hidden)), *after)

    def _embed(self, tokens: Tensor) -> Tensor:
        if not self.config.tie_embeddings:
            return functional.embedding(tokens, self.embeddings)
        # The head's matrix is the embedding on its side: one matrix in the file, and a few strided reads a token.
        columns = self.head.weight.index_select(1, tokens.flatten()).t()
        hidden: Tensor = columns.unflatten(0, (-1, tokens.shape[1]))
        return hidden


class StepGraph(nn.Module):
    """One token a row. `position` is the number of tokens before it."""

    def __init__(self, model: GraphModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, position: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """`tokens` `[batch, 1]`, `position` `[]`; gives logits `[batch, 1, vocabulary]` and the states after."""
        return self.model.run(tokens, position, 1, None, states)


class ChunkGraph(nn.Module):
    """`CHUNK_TOKENS` tokens a row, padding after the first `count`; logits of the `wanted` positions only."""

    def __init__(self, model: GraphModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, position: Tensor, count: Tensor, wanted: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """`tokens` `[batch, chunk]`, `position` and `count` `[]`, `wanted` `[positions]`.

        Keys and values come back with those of the padding at their end, for the caller to cut off.
        """
        return self.model.run(tokens, position, count, wanted, states)
