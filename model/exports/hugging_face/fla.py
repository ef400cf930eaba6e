"""flash-linear-attention's `HGRN2ForCausalLM` and `GatedDeltaNetForCausalLM`, with attention in the layers it names.

Our parameter names are fla's, so tensors differ in the prefix `model.` only.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from model.config import ModelConfig
from model.exports.hugging_face.fields import Fields
from model.exports.hugging_face.layout import (
    Layout,
    build_config,
    common_places,
    layers,
    same_names,
    without_query_key_norm,
)
from model.exports.hugging_face.places import Place
from model.mixers.short_convolution import CONVOLUTION_TAPS

_ATTENTION = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")
_FEED_FORWARD = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
_HGRN2 = ("q_proj.weight", "f_proj.weight", "i_proj.weight", "g_norm.weight", "o_proj.weight")
_HGRN2_CONVOLUTIONS = ("q_conv1d.weight", "f_conv1d.weight", "i_conv1d.weight")
_GATED_DELTANET = (
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "a_proj.weight", "b_proj.weight", "g_proj.weight",
    "A_log", "dt_bias", "q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight", "o_norm.weight", "o_proj.weight",
)  # fmt: skip


class _FlaLayout(Layout):
    """What both models share: attention by `attn`, a SwiGLU in every layer, one epsilon of the block norms."""

    def check(self, config: ModelConfig) -> None:
        """fla's hybrid attention cannot be given norms of queries and keys."""
        super().check(config)
        without_query_key_norm(config, self.model_type)

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Fields of both models."""
        attention = [index for index, kind in enumerate(config.mixer_kinds) if kind == "attention"]
        attn = {
            "layers": attention,
            "num_heads": config.attention_heads,
            "num_kv_heads": config.key_value_heads,
            "qkv_bias": False,
            "window_size": None,
            "rope_theta": config.rope_theta,
        }
        return {
            "attn": attn if attention else None,
            "attn_mode": "chunk",
            "intermediate_size": config.feed_forward_width,
            "hidden_act": "swish",
            "norm_eps": config.norm_eps,
            "conv_size": CONVOLUTION_TAPS,
        }

    def places(self, config: ModelConfig) -> list[Place]:
        """Ours, with `model.` in front."""
        first, last = common_places(config, "model.embeddings.weight", "model.norm.weight")
        if self.mixer == "hgrn2":
            first += [Place("model.lower_bounds", ("lower_bounds",))]
        middle: list[Place] = []
        for kind, theirs, ours in layers(config):
            names = _ATTENTION if kind == "attention" else self._mixer_names(config)
            middle += same_names(theirs, ours, ("attn_norm.weight",))
            middle += same_names(theirs + "attn.", ours + "attn.", names)
            middle += same_names(theirs, ours, ("mlp_norm.weight",))
            middle += same_names(theirs + "mlp.", ours + "mlp.", _FEED_FORWARD)
        return [*first, *middle, *last]

    def open(self, fields: Fields) -> tuple[ModelConfig, list[Place]]:
        """fla's other options are refused by name."""
        fields.expect("hidden_act", "swish", "silu", default="swish")
        fields.expect("conv_size", CONVOLUTION_TAPS, default=4)
        fields.expect("attnres_block_size", None, default=None)
        layer_count, width = fields.whole("num_hidden_layers", self._default_layers), fields.whole("hidden_size", 2048)
        kinds, attention = _attention(fields, layer_count, self.mixer)
        config = build_config(
            fields,
            vocabulary_size=fields.whole("vocab_size", 32_000),
            width=width,
            layer_count=layer_count,
            layer_kinds=kinds,
            feed_forward_width=_feed_forward_width(fields, width),
            norm_eps=fields.number("norm_eps", 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            maximum_context=fields.whole("max_position_embeddings", 2048),
            **attention,
            **self._mixer_shape(fields, width),
        )
        return config, self.places(config)

    _default_layers: int

    @abstractmethod
    def _mixer_names(self, config: ModelConfig) -> tuple[str, ...]:
        """The parameters of a linear layer's mixer."""

    @abstractmethod
    def _mixer_shape(self, fields: Fields, width: int) -> dict[str, Any]:
        """The fields of our configuration that describe it."""


class FlaHGRN2(_FlaLayout):
    """HGRN-2; its own norm has epsilon 1e-5 in fla whatever `norm_eps` says, as ours."""

    model_type = "hgrn2"
    architecture = "HGRN2ForCausalLM"
    mixer = "hgrn2"
    _default_layers = 24

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """`expand_ratio` is the head size."""
        return super().describe(config) | {
            "expand_ratio": config.hgrn2_head_dim,
            "num_heads": config.width // config.hgrn2_head_dim,
            "use_short_conv": config.short_convolution,
            "use_lower_bound": True,
            "elementwise_affine": True,
        }

    def _mixer_names(self, config: ModelConfig) -> tuple[str, ...]:
        return (*_HGRN2, *(_HGRN2_CONVOLUTIONS if config.short_convolution else ()))

    def _mixer_shape(self, fields: Fields, width: int) -> dict[str, Any]:
        fields.expect("use_lower_bound", True, default=True)
        fields.expect("elementwise_affine", True, default=True)
        by_heads = fields.get("expand_ratio", 128 if "expand_ratio" not in fields.values else None) is None
        return {
            "hgrn2_head_dim": width // fields.whole("num_heads") if by_heads else fields.whole("expand_ratio", 128),
            "short_convolution": fields.flag("use_short_conv", False),
        }


class FlaGatedDeltaNet(_FlaLayout):
    """Gated DeltaNet; `norm_eps` is the epsilon of its output norm too, as ours."""

    model_type = "gated_deltanet"
    architecture = "GatedDeltaNetForCausalLM"
    mixer = "gated_deltanet"
    _default_layers = 21

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """As many value heads as key heads."""
        return super().describe(config) | {
            "head_dim": config.gated_deltanet_head_dim,
            "num_heads": config.gated_deltanet_head_count,
            "expand_v": float(config.gated_deltanet_value_expansion),
            "use_gate": True,
            "use_short_conv": True,
            "allow_neg_eigval": False,
            "output_gate_activation": "swish",
        }

    def _mixer_names(self, config: ModelConfig) -> tuple[str, ...]:
        return _GATED_DELTANET

    def _mixer_shape(self, fields: Fields, width: int) -> dict[str, Any]:
        fields.expect("use_gate", True, default=True)
        fields.expect("use_short_conv", True, default=True)
        fields.expect("allow_neg_eigval", False, default=False)
        fields.expect("output_gate_activation", "swish", "silu", default="swish")
        heads = fields.whole("num_heads", 6)
        fields.expect("num_v_heads", heads, default=heads)
        expansion = fields.number("expand_v", 2.0)
        if not expansion.is_integer():
            raise fields.refusal("expand_v", expansion, "a whole number")
        return {
            "gated_deltanet_head_dim": fields.whole("head_dim", 256),
            "gated_deltanet_heads": heads,
            "gated_deltanet_value_expansion": int(expansion),
        }


def _attention(fields: Fields, layer_count: int, mixer: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The kind of every layer, and the shape of attention where there is any."""
    attn = fields.get("attn")
    if attn is None:
        return (mixer,) * layer_count, {}
    if isinstance(attn, list) and len(attn) == 1:
        attn = attn[0]
    if not isinstance(attn, dict):
        raise fields.refusal("attn", attn, "one shape of attention for all layers that have it")
    inner = Fields(attn, fields.path)
    inner.expect("qkv_bias", False, default=False)
    inner.expect("window_size", None, default=None)
    chosen = set(inner.get("layers", []))
    heads = inner.whole("num_heads")
    shape = {
        "attention_heads": heads,
        "key_value_heads": inner.whole("num_kv_heads", heads),
        "rope_theta": inner.number("rope_theta", 10_000.0),
    }
    return tuple("attention" if index in chosen else mixer for index in range(layer_count)), shape


def _feed_forward_width(fields: Fields, width: int) -> int:
    """fla's own rule where only a ratio is given: two thirds of it, rounded up to a multiple of 256."""
    if fields.get("intermediate_size") is not None:
        return fields.whole("intermediate_size")
    wanted = int(width * fields.whole("hidden_ratio", 4) * 2 / 3)
    return 256 * -(-wanted // 256)
