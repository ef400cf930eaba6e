"""transformers' `GraniteMoeHybridForCausalLM` without experts: Mamba-2 and attention layers in any order.

Granite scales its embedding, its residual branches, its attention scores and its logits by constants. Ours are 1
(scores: head_dim ** -0.5) and written so; files with other constants are read by folding them into the weights:
score scale into the queries, residual scale into the projections that end a branch, embedding scale into the
embedding, and the logits' divisor into the last norm (with the embedding's scale once more when the head is tied).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.exports.hugging_face.fields import Fields
from model.exports.hugging_face.layout import (
    Layout,
    build_config,
    layers,
    same_names,
    without_query_key_norm,
)
from model.exports.hugging_face.places import JoinedRows, Place, Scaled
from model.mixers.short_convolution import CONVOLUTION_TAPS

#: Names of layer types: the first pair is older, and the one llama.cpp's converter looks for; transformers knows both.
_KINDS = {"attention": "attention", "mamba": "mamba2", "full_attention": "attention", "linear_attention": "mamba2"}
_LAYER_TYPES = {"attention": "attention", "mamba2": "mamba"}
_MAMBA = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D", "norm.weight")


@dataclass(frozen=True)
class _Multipliers:
    """Granite's constants; `scores` in units of head_dim ** -0.5."""

    embedding: float = 1.0
    residual: float = 1.0
    scores: float = 1.0
    logits: float = 1.0


class GraniteMoeHybrid(Layout):
    """The layout of dense Granite 4."""

    model_type = "granitemoehybrid"
    architecture = "GraniteMoeHybridForCausalLM"
    mixer = "mamba2"

    def check(self, config: ModelConfig) -> None:
        """Attention has no norms of queries and keys; one epsilon serves all norms."""
        super().check(config)
        without_query_key_norm(config, self.model_type)

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Every constant is written, because Granite's defaults differ from ours."""
        # transformers checks the shape of Mamba layers even where there are none.
        head_dim = config.mamba2_head_dim if "mamba2" in config.mixer_kinds else config.mamba2_inner_width
        return {
            "layer_types": [_LAYER_TYPES[kind] for kind in config.mixer_kinds],
            "intermediate_size": config.feed_forward_width,
            "shared_intermediate_size": config.feed_forward_width,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "hidden_act": "silu",
            "num_attention_heads": config.attention_heads,
            "num_key_value_heads": config.key_value_heads,
            "attention_bias": False,
            "position_embedding_type": "rope",
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
            "attention_multiplier": config.head_dim**-0.5,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "rms_norm_eps": config.norm_eps,
            "mamba_n_heads": config.mamba2_inner_width // head_dim,
            "mamba_d_head": head_dim,
            "mamba_d_state": config.mamba2_state_size,
            "mamba_n_groups": config.mamba2_groups,
            "mamba_expand": config.mamba2_expansion,
            "mamba_d_conv": CONVOLUTION_TAPS,
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
        }

    def places(self, config: ModelConfig) -> list[Place]:
        """Gate and up projections are one matrix, gate first."""
        return _places(config, _Multipliers())

    def open(self, fields: Fields) -> tuple[ModelConfig, list[Place]]:
        """Constants may be any; experts, biases and attention without rotary positions are refused."""
        _refuse_the_unrepresentable(fields)
        layer_count, width = fields.whole("num_hidden_layers", 32), fields.whole("hidden_size", 4096)
        kinds = fields.layer_kinds("layer_types", _KINDS, ["mamba"] * layer_count)
        shape: dict[str, Any] = {}
        if "attention" in kinds:
            shape |= _attention_shape(fields, width)
        if "mamba2" in kinds:
            shape |= _mamba_shape(fields, width)
        config = build_config(
            fields,
            vocabulary_size=fields.whole("vocab_size", 32_000),
            width=width,
            layer_count=layer_count,
            layer_kinds=kinds,
            feed_forward_width=fields.whole("shared_intermediate_size", 1024),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            maximum_context=fields.whole("max_position_embeddings", 2048),
            **shape,
        )
        multipliers = _Multipliers(
            embedding=fields.number("embedding_multiplier", 1.0),
            residual=fields.number("residual_multiplier", 1.0),
            scores=_score_scale(fields, config),
            logits=1 / fields.number("logits_scaling", 1.0),
        )
        return config, _places(config, multipliers)


def _places(config: ModelConfig, multipliers: _Multipliers) -> list[Place]:
    embedding, residual = multipliers.embedding, multipliers.residual
    places = [_scaled("model.embed_tokens.weight", "embeddings.weight", embedding)]
    for kind, theirs, ours in layers(config):
        places.append(Place(theirs + "input_layernorm.weight", (ours + "attn_norm.weight",)))
        if kind == "attention":
            query, output = "self_attn.q_proj.weight", "self_attn.o_proj.weight"
            places.append(_scaled(theirs + query, ours + "attn.q_proj.weight", multipliers.scores))
            places += same_names(theirs + "self_attn.", ours + "attn.", ("k_proj.weight", "v_proj.weight"))
            places.append(_scaled(theirs + output, ours + "attn.o_proj.weight", residual))
        else:
            places += same_names(theirs + "mamba.", ours + "attn.", _MAMBA)
            places.append(_scaled(theirs + "mamba.out_proj.weight", ours + "attn.out_proj.weight", residual))
        joined = (ours + "mlp.gate_proj.weight", ours + "mlp.up_proj.weight")
        places.append(Place(theirs + "post_attention_layernorm.weight", (ours + "mlp_norm.weight",)))
        places.append(JoinedRows(theirs + "shared_mlp.input_linear.weight", joined))
        places.append(_scaled(theirs + "shared_mlp.output_linear.weight", ours + "mlp.down_proj.weight", residual))
    # A tied head reads the embedding with its scale in it: the last norm takes that scale out again.
    logits = multipliers.logits / (embedding if config.tie_embeddings else 1.0)
    places.append(_scaled("model.norm.weight", "norm.weight", logits))
    return places if config.tie_embeddings else [*places, Place("lm_head.weight", ("lm_head.weight",))]


def _scaled(stored: str, parameter: str, multiplier: float) -> Place:
    """The place of a parameter that is `multiplier` times what is stored."""
    return Place(stored, (parameter,)) if multiplier == 1.0 else Scaled(stored, (parameter,), 1 / multiplier)


def _refuse_the_unrepresentable(fields: Fields) -> None:
    fields.expect("hidden_act", "silu", default="silu")
    fields.expect("num_local_experts", 0, default=8)
    fields.expect("attention_bias", False, default=False)
    fields.expect("mamba_proj_bias", False, default=False)
    fields.expect("mamba_conv_bias", True, default=True)
    fields.expect("mamba_d_conv", CONVOLUTION_TAPS, default=4)
    fields.expect("time_step_limit", [0.0, math.inf], default=[0.0, math.inf])


def _attention_shape(fields: Fields, width: int) -> dict[str, Any]:
    heads = fields.whole("num_attention_heads", 32)
    fields.expect("position_embedding_type", "rope", default=None)
    fields.expect("head_dim", width // heads, default=width // heads)
    return {
        "attention_heads": heads,
        "key_value_heads": fields.whole("num_key_value_heads", heads),
        "rope_theta": fields.rope_theta(),
    }


def _mamba_shape(fields: Fields, width: int) -> dict[str, Any]:
    heads, expansion = fields.whole("mamba_n_heads", 128), fields.whole("mamba_expand", 2)
    automatic = fields.get("mamba_d_head", "auto") == "auto"
    head_dim = expansion * width // heads if automatic else fields.whole("mamba_d_head")
    if heads * head_dim != expansion * width:
        raise fields.refusal("mamba_n_heads", heads, f"mamba_expand * hidden_size / mamba_d_head heads of {head_dim}")
    return {
        "mamba2_head_dim": head_dim,
        "mamba2_state_size": fields.whole("mamba_d_state", 256),
        "mamba2_expansion": expansion,
        "mamba2_groups": fields.whole("mamba_n_groups", 1),
    }


def _score_scale(fields: Fields, config: ModelConfig) -> float:
    """Granite's score scale in units of ours, with exactly 1 for what we write."""
    multiplier = fields.number("attention_multiplier", 1.0)
    usual = config.head_dim**-0.5
    return 1.0 if multiplier == usual else multiplier / usual
