"""Architecture `granitehybrid` of stock llama.cpp: Mamba-2 layers and attention (IBM Granite 4's dense hybrids).

Its code multiplies embeddings, residuals and logits by nothing when those keys are left out. What it
fixes, it fixes so: rotary positions in pairs of neighbours (NORM), a feed-forward in every layer, an
inner width of twice the model's, one epsilon for all norms. `rope.scaling.finetuned` is its switch
for rotary positions, and its scores are scaled by `attention.scale`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import GGUFWriter
from torch import Tensor

from model.config import ModelConfig
from model.exports.gguf.layout import Derivation, Layout, Placement, convolution, decay_rates, require, weights
from model.exports.gguf.rotary_rows import to_half_split, to_neighbours
from model.mixers.short_convolution import CONVOLUTION_TAPS

_EXPANSION = 2


class GraniteHybridLayout(Layout):
    """Files for any llama.cpp."""

    architecture = "granitehybrid"
    recurrent_kind = "mamba2"
    runtime_notice = "Runs in stock llama.cpp, and in this project's own reader (model.exports.gguf.load_gguf)."

    def check(self, config: ModelConfig) -> None:
        """An inner width of twice the width, a feed-forward in every layer, no norm of queries and keys."""
        require(config.mamba2_expansion == _EXPANSION, self.architecture, f"mamba2_expansion must be {_EXPANSION}")
        require(config.feed_forward_layers == "all", self.architecture, "feed_forward_layers must be all")
        require(not config.query_key_norm, self.architecture, "query_key_norm must be false")

    def add_metadata(self, writer: GGUFWriter, config: ModelConfig) -> None:
        """Sizes of the state space, scale of the scores, rotary positions on."""
        writer.add_rope_scaling_finetuned(True)
        writer.add_attention_scale(config.head_dim**-0.5)
        writer.add_ssm_conv_kernel(CONVOLUTION_TAPS)
        writer.add_ssm_inner_size(config.mamba2_inner_width)
        writer.add_ssm_state_size(config.mamba2_state_size)
        writer.add_ssm_time_step_rank(config.mamba2_inner_width // config.mamba2_head_dim)
        writer.add_ssm_group_count(config.mamba2_groups)

    def layer_placements(self, config: ModelConfig, index: int) -> Iterator[Placement]:
        """Attention with the rows of queries and keys in the order of NORM rotation, or Mamba-2."""
        if config.mixer_kinds[index] == "attention":
            yield from _attention(config, index)
        else:
            yield from _mamba2(config, index)

    def derivations(self, config: ModelConfig) -> list[Derivation]:
        """The decay rate -exp(A_log) of each head, as a column."""
        return [decay_rates(index, column=True) for index, kind in enumerate(config.mixer_kinds) if kind == "mamba2"]


def _attention(config: ModelConfig, index: int) -> Iterator[Placement]:
    for theirs, ours, heads in (
        ("attn_q", "q_proj", config.attention_heads),
        ("attn_k", "k_proj", config.key_value_heads),
    ):
        yield Placement(
            f"blk.{index}.{theirs}.weight",
            (f"layers.{index}.attn.{ours}.weight",),
            store=to_neighbours(heads),
            restore=to_half_split(heads),
        )
    yield from weights(index, {"attn_v": "v_proj", "attn_output": "o_proj"})


def _mamba2(config: ModelConfig, index: int) -> Iterator[Placement]:
    yield from weights(index, {"ssm_in": "in_proj", "ssm_out": "out_proj"})
    yield convolution(index, "ssm_conv1d", ("conv1d",))
    theirs, ours = f"blk.{index}", f"layers.{index}.attn"
    yield Placement(f"{theirs}.ssm_conv1d.bias", (f"{ours}.conv1d.bias",))
    yield Placement(f"{theirs}.ssm_dt.bias", (f"{ours}.dt_bias",))
    yield Placement(f"{theirs}.ssm_d", (f"{ours}.D",), store=_column, restore=_flat)
    yield Placement(
        f"{theirs}.ssm_norm.weight",
        (f"{ours}.norm.weight",),
        store=lambda values: values.unflatten(0, (config.mamba2_groups, -1)),
        restore=_flat,
    )


def _column(values: Tensor) -> Tensor:
    return values.unsqueeze(1)


def _flat(values: Tensor) -> Tensor:
    return values.flatten()
