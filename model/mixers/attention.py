"""Grouped-query softmax attention with rotary positions (fla's `Attention`; QK norm where asked for)."""

from __future__ import annotations

from torch import Tensor

from model.config import ModelConfig, require_divisible
from model.errors import ConfigurationError
from model.linear import Linear
from model.mixers.interface import Mixer
from model.norms import RMSNorm
from model.ops.attention import causal_attention, continued_attention, document_attention, ragged_attention
from model.ops.rotary import rotate
from model.plain_modules import project
from model.sequence import Sequence
from model.sequence_parallel.heads import rows_of_own_heads, slice_of_all_heads


class Attention(Mixer):
    """Parameter names are fla's `{q,k,v,o}_proj`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.head_dim = config.head_dim
        narrow = config.key_value_heads * config.head_dim
        self.q_proj = Linear(config.width, config.width, bias=False)
        self.k_proj = Linear(config.width, narrow, bias=False)
        self.v_proj = Linear(config.width, narrow, bias=False)
        self.o_proj = Linear(config.width, config.width, bias=False)
        self.query_key_norm = config.query_key_norm
        if config.query_key_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """Attend within each document, over the cache when there is one."""
        asking, rotary = hidden, sequence.rotary
        if sequence.last_alone and sequence.cache is not None:
            asking, rotary = hidden[:, -1:], sequence.rotary.last()
        if asking is hidden:
            projected = project(hidden, self.q_proj, self.k_proj, self.v_proj)
        else:
            projected = (self.q_proj(asking), self.k_proj(hidden), self.v_proj(hidden))
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in projected)
        if self.query_key_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, rotary), rotate(key, sequence.rotary)
        if sequence.sequence_parallel is not None:
            query, key, value = rows_of_own_heads(query, key, value, sequence.sequence_parallel)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if sequence.cache is not None:
            key, value = sequence.cache.append(self.layer, key, value)
            if sequence.ragged is None:
                mixed = continued_attention(query, key, value)
            else:
                mixed = ragged_attention(query, key, value, *sequence.ragged)
        elif sequence.document_lengths is not None:
            mixed = document_attention(query, key, value, sequence.document_lengths)
        else:
            mixed = causal_attention(query, key, value)
        mixed = mixed.transpose(1, 2)
        if sequence.sequence_parallel is not None:
            mixed = slice_of_all_heads(mixed, sequence.sequence_parallel)
        output: Tensor = self.o_proj(mixed.flatten(2))
        return output

    @staticmethod
    def check(config: ModelConfig) -> None:
        """Heads must divide evenly, and rotary positions turn channels in pairs."""
        require_divisible(config, "width", "attention_heads")
        require_divisible(config, "attention_heads", "key_value_heads")
        if config.head_dim % 2:
            raise ConfigurationError(
                f"attention_heads={config.attention_heads} gives the odd head size {config.head_dim}: rotary "
                "positions need an even width / attention_heads"
            )

    @staticmethod
    def parameter_count(config: ModelConfig) -> int:
        """Four projections, two of them narrow; and the norms of queries and keys."""
        return Attention.linear_parameter_count(config) + (2 * config.head_dim if config.query_key_norm else 0)

    @staticmethod
    def linear_parameter_count(config: ModelConfig) -> int:
        """The projections."""
        return 2 * config.width * (config.width + config.key_value_heads * config.head_dim)

    @staticmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        """Scores and weighted values: 2 * width FLOPs each a visible key, half the context on average."""
        return 4 * config.width * (context + 1) / 2

    @staticmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        """Keys and values of every token."""
        return 2 * config.key_value_heads * config.head_dim * context * element_bytes, 0

    @staticmethod
    def saved_elements(config: ModelConfig, context: int) -> float:
        """Queries, keys and values with a head for each query head, the output, a normaliser a head."""
        kept = 4 * config.width + config.attention_heads
        if config.query_key_norm:
            heads = config.attention_heads + config.key_value_heads
            kept += heads * (config.head_dim + 1)
        return kept
