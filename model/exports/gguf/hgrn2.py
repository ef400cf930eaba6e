"""Architecture `hgrn2`: HGRN-2 layers and attention, as our patch to llama.cpp reads them (model/llama_cpp).

An HGRN-2 layer keeps its projections under the attention names (query, forget gate as key, input as
value) and adds its norm, its three short convolutions and one minus its lower bound as
`time_mix_decay`; `head_count_kv` is 0 there. Attention layers use the half-split (NEOX) rotary form,
so no rows are permuted.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import GGUFWriter
from torch import Tensor

from model.config import ModelConfig
from model.exports.gguf.layout import Derivation, Layout, Placement, convolution, require, weights
from model.mixers.hgrn2 import OUTPUT_NORM_EPS
from model.mixers.short_convolution import CONVOLUTION_TAPS

_ATTENTION = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
_QUERY_KEY_NORMS = {"attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
_HGRN2 = {"attn_q": "q_proj", "attn_k": "f_proj", "attn_v": "i_proj", "attn_output": "o_proj", "ssm_norm": "g_norm"}
_CONVOLUTIONS = {"ssm_conv1d_q": "q_conv1d", "ssm_conv1d_k": "f_conv1d", "ssm_conv1d_v": "i_conv1d"}


class HGRN2Layout(Layout):
    """Files for the patched llama.cpp."""

    architecture = "hgrn2"
    recurrent_kind = "hgrn2"
    runtime_notice = (
        "Architecture hgrn2 is not part of stock llama.cpp, which refuses this file. It runs in llama.cpp with this "
        "project's hgrn2 patch (make llama), and in this project's own reader (model.exports.gguf.load_gguf)."
    )

    def check(self, config: ModelConfig) -> None:
        """Everything but layers without feed-forward."""
        require(config.feed_forward_layers == "all", self.architecture, "feed_forward_layers must be all")

    def add_metadata(self, writer: GGUFWriter, config: ModelConfig) -> None:
        """Head size of the states, epsilon of HGRN-2's own norm, taps of the convolutions if it has them."""
        writer.add_group_norm_eps(OUTPUT_NORM_EPS)
        writer.add_wkv_head_size(config.hgrn2_head_dim)
        if config.short_convolution:
            writer.add_ssm_conv_kernel(CONVOLUTION_TAPS)

    def layer_placements(self, config: ModelConfig, index: int) -> Iterator[Placement]:
        """Attention, or HGRN-2 under attention's names."""
        if config.mixer_kinds[index] == "attention":
            yield from weights(index, _ATTENTION | (_QUERY_KEY_NORMS if config.query_key_norm else {}))
            return
        yield from weights(index, _HGRN2)
        if config.short_convolution:
            for theirs, ours in _CONVOLUTIONS.items():
                yield convolution(index, theirs, (ours,))

    def derivations(self, config: ModelConfig) -> list[Derivation]:
        """One minus each layer's least forget gate, [width], from the bounds of all layers."""
        layers = [index for index, kind in enumerate(config.mixer_kinds) if kind == "hgrn2"]

        def decay_ranges(bounds: Tensor) -> dict[str, Tensor]:
            shares = bounds.float().softmax(dim=0)
            least = shares.cumsum(dim=0) - shares[0]
            return {f"blk.{index}.time_mix_decay.weight": 1 - least[index] for index in layers}

        return [Derivation("lower_bounds", decay_ranges)]
