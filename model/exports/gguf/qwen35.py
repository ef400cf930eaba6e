"""Architecture `qwen35` of stock llama.cpp: Gated DeltaNet layers and attention (Qwen3.5's dense text models).

The same functions as ours in another shape, each difference exact: query, key and value projections of
Gated DeltaNet are one matrix, their convolutions another; attention multiplies what it read by the
sigmoid of a gate beside each head's query, and rows of zero make that 1/2, so the output projection is
stored doubled. Norms are stored with their plain weights. `head_count_kv` is one number:
`attention.recurrent_layers` says which layers are recurrent.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gguf import GGUFWriter
from torch import Tensor

from model.config import ModelConfig
from model.exports.gguf.layout import (
    Derivation,
    Layout,
    Placement,
    Transform,
    convolution,
    decay_rates,
    require,
    weights,
)
from model.mixers.short_convolution import CONVOLUTION_TAPS

_PLAIN_ATTENTION = {"attn_k": "k_proj", "attn_v": "v_proj", "attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
_PLAIN_GATED_DELTANET = {
    "attn_gate": "g_proj", "ssm_beta": "b_proj", "ssm_alpha": "a_proj", "ssm_norm": "o_norm", "ssm_out": "o_proj",
}  # fmt: skip


class Qwen35Layout(Layout):
    """Files for any llama.cpp."""

    architecture = "qwen35"
    recurrent_kind = "gated_deltanet"
    runtime_notice = "Runs in stock llama.cpp, and in this project's own reader (model.exports.gguf.load_gguf)."
    feed_forward_norm = "post_attention_norm"

    def check(self, config: ModelConfig) -> None:
        """Norms of queries and keys, values as wide as keys, a feed-forward in every layer."""
        require(config.query_key_norm, self.architecture, "query_key_norm must be true")
        require(
            config.gated_deltanet_value_expansion == 1, self.architecture, "gated_deltanet_value_expansion must be 1"
        )
        require(config.feed_forward_layers == "all", self.architecture, "feed_forward_layers must be all")

    def add_metadata(self, writer: GGUFWriter, config: ModelConfig) -> None:
        """Sizes of the recurrent layers and which they are; rotary sections that leave no frequency out."""
        heads, size = config.gated_deltanet_head_count, config.gated_deltanet_head_dim
        writer.add_ssm_conv_kernel(CONVOLUTION_TAPS)
        writer.add_ssm_inner_size(heads * size)
        writer.add_ssm_state_size(size)
        writer.add_ssm_time_step_rank(heads)
        writer.add_ssm_group_count(heads)
        recurrent = [kind == self.recurrent_kind for kind in config.mixer_kinds]
        writer.add_array(f"{self.architecture}.attention.recurrent_layers", recurrent)
        # Frequency i belongs to the section i modulo three; a text has the same position in all of them.
        frequencies = config.head_dim // 2
        writer.add_rope_dimension_sections([(frequencies + 2 - section) // 3 for section in range(3)] + [0])

    def key_value_heads(self, config: ModelConfig) -> int:
        """The same for every layer."""
        return config.key_value_heads

    def layer_placements(self, config: ModelConfig, index: int) -> Iterator[Placement]:
        """Attention with a gate that is always 1/2, or Gated DeltaNet with joined projections."""
        theirs, ours = f"blk.{index}", f"layers.{index}.attn"
        if config.mixer_kinds[index] == "attention":
            store, restore = _beside_gates(config.attention_heads)
            yield Placement(f"{theirs}.attn_q.weight", (f"{ours}.q_proj.weight",), store, restore)
            yield Placement(f"{theirs}.attn_output.weight", (f"{ours}.o_proj.weight",), _doubled, _halved)
            yield from weights(index, _PLAIN_ATTENTION)
            return
        rows = (config.gated_deltanet_head_count * config.gated_deltanet_head_dim,) * 3
        projections = tuple(f"{ours}.{part}_proj.weight" for part in "qkv")
        yield Placement(f"{theirs}.attn_qkv.weight", projections, rows=rows)
        yield convolution(index, "ssm_conv1d", tuple(f"{part}_conv1d" for part in "qkv"), rows)
        yield Placement(f"{theirs}.ssm_dt.bias", (f"{ours}.dt_bias",))
        yield from weights(index, _PLAIN_GATED_DELTANET)

    def derivations(self, config: ModelConfig) -> list[Derivation]:
        """The decay rate -exp(A_log) of each head."""
        return [
            decay_rates(index, column=False)
            for index, kind in enumerate(config.mixer_kinds)
            if kind == self.recurrent_kind
        ]


def _beside_gates(heads: int) -> tuple[Transform, Transform]:
    """Each head's query rows, then as many rows of zero for its gate; and the way back."""

    def store(queries: Tensor) -> Tensor:
        each: Tensor = queries.unflatten(0, (heads, -1))
        return torch.cat([each, torch.zeros_like(each)], dim=1).flatten(0, 1)

    def restore(rows: Tensor) -> Tensor:
        each: Tensor = rows.unflatten(0, (heads, 2, -1))
        return each[:, 0].flatten(0, 1)

    return store, restore


def _doubled(values: Tensor) -> Tensor:
    return values * 2


def _halved(values: Tensor) -> Tensor:
    return values / 2
