"""Parameters, FLOPs and the cache's size, from the configuration alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from model.config import ModelConfig
from model.mixers import MIXERS

# A multiply and an add; the backward pass does each forward product twice (for inputs and for weights).
_FLOPS_PER_WEIGHT = 2
_BACKWARD_TO_FORWARD = 2


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by component. A tied head is counted once, in `embedding`."""

    embedding: int
    mixers: int
    feed_forward: int
    norms: int
    lower_bounds: int
    head: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.mixers + self.feed_forward + self.norms + self.lower_bounds + self.head


@dataclass(frozen=True)
class TrainingFlops:
    """Forward and backward FLOPs a token, by component, without recomputation."""

    mixer_projections: dict[str, float]  # by mixer kind, all its layers together
    mixing: dict[str, float]  # what mixers do outside projections; attention's grows with the context
    feed_forward: float
    head: float

    @property
    def total(self) -> float:
        """All FLOPs a token."""
        return sum(self.mixer_projections.values()) + sum(self.mixing.values()) + self.feed_forward + self.head


@dataclass(frozen=True)
class CacheSize:
    """Bytes that generation keeps for one sequence."""

    keys_and_values: int
    states: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.keys_and_values + self.states


@lru_cache(maxsize=256)  # asked for thousands of times while placements are compared
def parameter_count(config: ModelConfig) -> ParameterCount:
    """Parameters of `HybridLM(config)`, which need not be built."""
    kinds = [MIXERS[kind] for kind in config.mixer_kinds]
    matrix = config.vocabulary_size * config.width
    return ParameterCount(
        embedding=matrix,
        mixers=sum(kind.parameter_count(config) for kind in kinds),
        feed_forward=_feed_forward_parameters(config),
        norms=(config.layer_count + _feed_forward_layers(config) + 1) * config.width,
        lower_bounds=config.layer_count * config.width if any(kind.has_lower_bound for kind in kinds) else 0,
        head=0 if config.tie_embeddings else matrix,
    )


def training_flops_per_token(config: ModelConfig, context: int) -> TrainingFlops:
    """FLOPs to train on one token in sequences of `context` tokens.

    Matrix products are counted (6 a weight and token) and, for the mixers, the work between tokens; norms,
    activations and the embedding look-up are left out. Attention counts the visible keys only.
    """
    passes = 1 + _BACKWARD_TO_FORWARD
    layers = Counter(config.mixer_kinds)
    weights = {name: count * MIXERS[name].linear_parameter_count(config) for name, count in layers.items()}
    return TrainingFlops(
        mixer_projections={name: float(passes * _FLOPS_PER_WEIGHT * number) for name, number in weights.items()},
        mixing={name: passes * count * MIXERS[name].mixing_flops(config, context) for name, count in layers.items()},
        feed_forward=passes * _FLOPS_PER_WEIGHT * _feed_forward_parameters(config),
        head=passes * _FLOPS_PER_WEIGHT * config.vocabulary_size * config.width,
    )


def cache_size(config: ModelConfig, context: int, element_bytes: int = 4) -> CacheSize:
    """What a sequence of `context` tokens keeps, with keys, values and convolution inputs of `element_bytes`."""
    sizes = [MIXERS[kind].cache_bytes(config, context, element_bytes) for kind in config.mixer_kinds]
    return CacheSize(keys_and_values=sum(size[0] for size in sizes), states=sum(size[1] for size in sizes))


def _feed_forward_parameters(config: ModelConfig) -> int:
    return 3 * config.width * config.feed_forward_width * _feed_forward_layers(config)


def _feed_forward_layers(config: ModelConfig) -> int:
    if config.feed_forward_layers == "all":
        return config.layer_count
    return sum(config.has_feed_forward(layer) for layer in range(config.layer_count))
