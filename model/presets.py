"""Named model shapes. `parameter_count` of each named size is within 3% of its name (docs/model.md)."""

from __future__ import annotations

import math

from model.config import ModelConfig
from model.errors import ConfigurationError

# Models are told apart here by what differs; everything else is the default of `ModelConfig`.
_MINIATURE = {
    "vocabulary_size": 256, "layer_count": 4, "attention_heads": 4, "key_value_heads": 2, "maximum_context": 2048,
}  # fmt: skip
_SAM2 = {
    "vocabulary_size": 50_304, "width": 4096, "layer_count": 28, "attention_heads": 32, "key_value_heads": 8,
    "hgrn2_head_dim": 128, "rope_theta": 1e6, "tie_embeddings": False, "maximum_context": 131_072,
}  # fmt: skip
# The shape that exports to GraniteMoeHybrid and from there to stock llama.cpp: one epsilon, one feed-forward width
# of about twice the model's (four times, as first sketched, would make the 1.3B model 1.9B), heads of 128.
_MAMBA_SLM = {"vocabulary_size": 128_256, "norm_eps": 1e-5, "rope_theta": 500_000.0, "maximum_context": 8192}
_LADDER = {"hgrn2_head_dim": 128, "maximum_context": 2048}


def attention_positions(layer_count: int) -> tuple[int, ...]:
    """Layers (from 0) with attention in the MAMBA-SLM family: about 35% of them, early, spread out, and late.

    The first ceil(n/12); ceil(n/8) in a row that end one before the last; ceil(n/8) evenly spread between the two.
    For 24 layers, counted from 1: 1, 2; 6, 11, 16; 21, 22, 23.
    """
    early, others = math.ceil(layer_count / 12), math.ceil(layer_count / 8)
    late = layer_count - others  # counted from 1, the first of the late ones
    middle = [math.floor(early + (late - early) * step / (others + 1)) for step in range(1, others + 1)]
    positions = [*range(1, early + 1), *middle, *range(late, late + others)]
    if len(set(positions)) < len(positions):
        raise ConfigurationError(f"layer_count={layer_count} has no room for the placement: use at least 4 layers")
    return tuple(position - 1 for position in positions)


def mamba_slm_layers(layer_count: int) -> tuple[str, ...]:
    """The kind of every layer in the MAMBA-SLM family."""
    attention = set(attention_positions(layer_count))
    return tuple("attention" if layer in attention else "mamba2" for layer in range(layer_count))


def _mamba_slm(width: int, layers: int, key_value_heads: int, feed_forward_width: int, tied: bool) -> ModelConfig:
    return ModelConfig.model_validate(
        _MAMBA_SLM
        | {
            "width": width,
            "layer_count": layers,
            "layer_kinds": mamba_slm_layers(layers),
            "attention_heads": width // 128,
            "key_value_heads": key_value_heads,
            "feed_forward_width": feed_forward_width,
            "tie_embeddings": tied,
        }
    )


def _ladder(vocabulary: int, width: int, layers: int, heads: int, groups: int, inner: int, tied: bool) -> ModelConfig:
    return ModelConfig.model_validate(
        _LADDER
        | {
            "vocabulary_size": vocabulary,
            "width": width,
            "layer_count": layers,
            "attention_heads": heads,
            "key_value_heads": groups,
            "feed_forward_width": inner,
            "tie_embeddings": tied,
        }
    )


def _sam2(**fields: object) -> ModelConfig:
    return ModelConfig.model_validate(_SAM2 | fields)


def _miniature(**fields: object) -> ModelConfig:
    return ModelConfig.model_validate(_MINIATURE | fields)


PRESETS: dict[str, ModelConfig] = {
    # For tests: everything is present (three linear layers, grouped attention), nothing takes time.
    "miniature": _miniature(width=64, feed_forward_width=128, hgrn2_head_dim=32),
    # For tests of K-quants, whose blocks need rows that are multiples of 256.
    "miniature-256": _miniature(width=256, feed_forward_width=256, hgrn2_head_dim=64),
    # Trains from nothing in minutes on two CPU cores.
    "smoke": _miniature(
        vocabulary_size=4096, width=256, feed_forward_width=512, hgrn2_head_dim=64, maximum_context=4096
    ),
    # The ladder from a first debugging run to three billion parameters.
    "tiny": _ladder(8192, 384, 4, 6, 2, 1024, tied=True),
    "small": _ladder(32_768, 768, 12, 12, 4, 1792, tied=True),
    "medium": _ladder(50_304, 1280, 28, 10, 2, 2560, tied=True),
    "large": _ladder(50_304, 2048, 24, 16, 4, 3584, tied=True),
    "xl": _ladder(50_304, 3072, 24, 24, 8, 8192, tied=False),
    # The long-context model: 3 HGRN-2 layers to 1 of attention; the same with 5 to 1 and with Gated DeltaNet,
    # whose feed-forward is narrower so that all three have as many parameters.
    "sam2-5.5b": _sam2(feed_forward_width=10_240),
    "sam2-5.5b-5to1": _sam2(feed_forward_width=9984, pattern=(*("hgrn2",) * 5, "attention")),
    "sam2-5.5b-gdn": _sam2(feed_forward_width=8192, pattern=(*("gated_deltanet",) * 3, "attention")),
    # Mamba-2 with attention where it counts.
    "mamba-slm-1.3b": _mamba_slm(2048, 24, 4, 3840, tied=True),
    "mamba-slm-2.7b": _mamba_slm(2560, 32, 4, 5376, tied=True),
    "mamba-slm-6.7b": _mamba_slm(4096, 32, 8, 8192, tied=False),
    "mamba-slm-13b": _mamba_slm(5120, 40, 8, 10_240, tied=False),
}


def preset(name: str) -> ModelConfig:
    """The configuration called `name`."""
    if name not in PRESETS:
        raise ConfigurationError(f"unknown model preset {name!r}; available: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
