"""Named model shapes."""

from __future__ import annotations

from model.config import ModelConfig
from model.errors import ConfigurationError

PRESETS: dict[str, ModelConfig] = {
    # For tests: everything is present (three linear layers, grouped attention), nothing takes time.
    "miniature": ModelConfig(
        vocabulary_size=256, width=64, layer_count=4, attention_heads=4, key_value_heads=2,
        feed_forward_width=128, hgrn2_head_dim=32, maximum_context=2048,
    ),
    # For tests of K-quants, whose blocks need rows that are multiples of 256.
    "miniature-256": ModelConfig(
        vocabulary_size=256, width=256, layer_count=4, attention_heads=4, key_value_heads=2,
        feed_forward_width=256, hgrn2_head_dim=64, maximum_context=2048,
    ),
    # Trains from nothing in minutes on two CPU cores.
    "smoke": ModelConfig(
        vocabulary_size=4096, width=256, layer_count=4, attention_heads=4, key_value_heads=2,
        feed_forward_width=512, hgrn2_head_dim=64, maximum_context=4096,
    ),
    # The 3:1 long-context model: 5.64 billion parameters (5.43 when tied).
    "sam2-5.5b": ModelConfig(
        vocabulary_size=50_304, width=4096, layer_count=28, attention_heads=32, key_value_heads=8,
        feed_forward_width=10_240, hgrn2_head_dim=128, rope_theta=1e6, tie_embeddings=False,
        maximum_context=131_072,
    ),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """The configuration called `name`."""
    if name not in PRESETS:
        raise ConfigurationError(f"unknown model preset {name!r}; available: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
