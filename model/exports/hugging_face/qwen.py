"""transformers' `Qwen3_5ForCausalLM` (dense text model): Gated DeltaNet, and attention with norms of queries and keys.

The same functions in another parameterisation, each difference exact:
- block norms and the norms of queries and keys multiply by `1 + weight`: stored minus one;
- Gated DeltaNet keeps query, key and value projections in one matrix and their convolutions in one: rows joined
  (its own gated norm has a plain weight); normalisation of queries and keys, scale, decay and gate are the same;
- attention multiplies its output by the sigmoid of a gate that shares the query projection. Ours has no gate: rows
  of zero give exactly 1/2 and the output projection is stored doubled, both without rounding;
- rotary positions may cover part of a head and have three coordinates: all of it here, and text has one coordinate.
"""

from __future__ import annotations

from typing import Any

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.exports.hugging_face.fields import Fields
from model.exports.hugging_face.layout import Layout, build_config, layers, same_names
from model.exports.hugging_face.places import JoinedRows, Place, Scaled, UngatedQueries, ZeroCentred
from model.mixers.short_convolution import CONVOLUTION_TAPS

_KINDS = {"full_attention": "attention", "linear_attention": "gated_deltanet"}
_LAYER_TYPES = {ours: theirs for theirs, ours in _KINDS.items()}
_GATED_DELTANET = {
    "in_proj_z.weight": "g_proj.weight",
    "in_proj_b.weight": "b_proj.weight",
    "in_proj_a.weight": "a_proj.weight",
    "A_log": "A_log",
    "dt_bias": "dt_bias",
    "norm.weight": "o_norm.weight",
    "out_proj.weight": "o_proj.weight",
}
_FEED_FORWARD = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


class Qwen35Text(Layout):
    """The layout of Qwen3.5's dense text models. llama.cpp's `qwen35` also wants value size = key size."""

    model_type = "qwen3_5_text"
    architecture = "Qwen3_5ForCausalLM"
    mixer = "gated_deltanet"

    def check(self, config: ModelConfig) -> None:
        """Its attention always norms queries and keys."""
        super().check(config)
        if "attention" in config.mixer_kinds and not config.query_key_norm:
            raise ConfigurationError(
                f"query_key_norm=False: attention in the Hugging Face layout {self.model_type} always norms queries "
                "and keys; train with query_key_norm=True, or export Gated DeltaNet as gated_deltanet"
            )

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Rotation of whole heads; sections of the frequencies only matter for images."""
        frequencies = config.head_dim // 2
        third = frequencies // 3
        rope = {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": 1.0,
            "mrope_interleaved": True,
            "mrope_section": [frequencies - 2 * third, third, third],
        }
        return {
            "layer_types": [_LAYER_TYPES[kind] for kind in config.mixer_kinds],
            "intermediate_size": config.feed_forward_width,
            "hidden_act": "silu",
            "num_attention_heads": config.attention_heads,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_dim,
            "attention_bias": False,
            "rope_parameters": rope,
            "partial_rotary_factor": 1.0,
            "rms_norm_eps": config.norm_eps,
            "linear_conv_kernel_dim": CONVOLUTION_TAPS,
            "linear_key_head_dim": config.gated_deltanet_head_dim,
            "linear_value_head_dim": config.gated_deltanet_head_dim * config.gated_deltanet_value_expansion,
            "linear_num_key_heads": config.gated_deltanet_head_count,
            "linear_num_value_heads": config.gated_deltanet_head_count,
        }

    def places(self, config: ModelConfig) -> list[Place]:
        """See the module's description."""
        places = [Place("model.embed_tokens.weight", ("embeddings.weight",))]
        for kind, theirs, ours in layers(config):
            places.append(ZeroCentred(theirs + "input_layernorm.weight", (ours + "attn_norm.weight",)))
            if kind == "attention":
                places += _attention_places(theirs + "self_attn.", ours + "attn.", config.head_dim)
            else:
                places += _gated_deltanet_places(theirs + "linear_attn.", ours + "attn.")
            places.append(ZeroCentred(theirs + "post_attention_layernorm.weight", (ours + "mlp_norm.weight",)))
            places += same_names(theirs + "mlp.", ours + "mlp.", _FEED_FORWARD)
        places.append(ZeroCentred("model.norm.weight", ("norm.weight",)))
        return places if config.tie_embeddings else [*places, Place("lm_head.weight", ("lm_head.weight",))]

    def open(self, fields: Fields) -> tuple[ModelConfig, list[Place]]:
        """Refuses grouped values, heads of another total width, partial rotation; and, in the weights, gates."""
        fields.expect("hidden_act", "silu", default="silu")
        fields.expect("attention_bias", False, default=False)
        fields.expect("linear_conv_kernel_dim", CONVOLUTION_TAPS, default=4)
        layer_count, width = fields.whole("num_hidden_layers", 32), fields.whole("hidden_size", 4096)
        interval = fields.whole("full_attention_interval", 4)
        usual = ["linear_attention" if (index + 1) % interval else "full_attention" for index in range(layer_count)]
        kinds = fields.layer_kinds("layer_types", _KINDS, usual)
        shape: dict[str, Any] = {}
        if "attention" in kinds:
            shape |= _attention_shape(fields, width)
        if "gated_deltanet" in kinds:
            shape |= _gated_deltanet_shape(fields)
        config = build_config(
            fields,
            vocabulary_size=fields.whole("vocab_size", 248_320),
            width=width,
            layer_count=layer_count,
            layer_kinds=kinds,
            feed_forward_width=fields.whole("intermediate_size", 12_288),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            maximum_context=fields.whole("max_position_embeddings", 32_768),
            query_key_norm=True,
            **shape,
        )
        return config, self.places(config)


def _attention_places(theirs: str, ours: str, head_dim: int) -> list[Place]:
    return [
        UngatedQueries(theirs + "q_proj.weight", (ours + "q_proj.weight",), head_dim),
        *same_names(theirs, ours, ("k_proj.weight", "v_proj.weight")),
        Scaled(theirs + "o_proj.weight", (ours + "o_proj.weight",), 2.0),
        ZeroCentred(theirs + "q_norm.weight", (ours + "q_norm.weight",)),
        ZeroCentred(theirs + "k_norm.weight", (ours + "k_norm.weight",)),
    ]


def _gated_deltanet_places(theirs: str, ours: str) -> list[Place]:
    projections = tuple(f"{ours}{part}_proj.weight" for part in "qkv")
    convolutions = tuple(f"{ours}{part}_conv1d.weight" for part in "qkv")
    return [
        JoinedRows(theirs + "in_proj_qkv.weight", projections),
        JoinedRows(theirs + "conv1d.weight", convolutions),
        *(Place(theirs + name, (ours + parameter,)) for name, parameter in _GATED_DELTANET.items()),
    ]


def _attention_shape(fields: Fields, width: int) -> dict[str, Any]:
    heads = fields.whole("num_attention_heads", 16)
    if width % heads:
        raise fields.refusal("num_attention_heads", heads, "a divisor of hidden_size")
    fields.expect("head_dim", width // heads, default=256)
    rope = fields.get("rope_parameters", {}) | fields.get("rope_scaling", {})
    if "partial_rotary_factor" not in rope | fields.values:
        raise fields.refusal("partial_rotary_factor", 0.25, "1.0, because every channel of a head is rotated")
    return {
        "attention_heads": heads,
        "key_value_heads": fields.whole("num_key_value_heads", 4),
        "rope_theta": fields.rope_theta(),
    }


def _gated_deltanet_shape(fields: Fields) -> dict[str, Any]:
    heads = fields.whole("linear_num_key_heads", 16)
    fields.expect("linear_num_value_heads", heads, default=32)
    key, value = fields.whole("linear_key_head_dim", 128), fields.whole("linear_value_head_dim", 128)
    if value % key:
        raise fields.refusal("linear_value_head_dim", value, f"a multiple of linear_key_head_dim, {key}")
    return {
        "gated_deltanet_heads": heads,
        "gated_deltanet_head_dim": key,
        "gated_deltanet_value_expansion": value // key,
    }
