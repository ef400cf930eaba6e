"""How big and how expensive a model is, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.mixers import MIXERS
from model.ops.cross_entropy import CHUNK_TOKENS

# A multiply and an add; the backward pass does each forward product twice (for inputs and for weights).
_FLOPS_PER_WEIGHT = 2
_BACKWARD_TO_FORWARD = 2
_FLOAT32_BYTES = 4


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


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training one process in float32 holds at once, when its backward pass begins."""

    weights: int
    gradients: int
    optimizer: int  # AdamW's two moments
    activations: dict[str, int]  # by mixer kind, `feed_forward`, `norms`; `block_inputs` where recomputed
    loss: int  # gradients of the head's input and weight, and one chunk of logits

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.gradients + self.optimizer + sum(self.activations.values()) + self.loss


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
    projections: dict[str, float] = {}
    mixing: dict[str, float] = {}
    for name in config.mixer_kinds:
        kind = MIXERS[name]
        weights = passes * _FLOPS_PER_WEIGHT * kind.linear_parameter_count(config)
        projections[name] = projections.get(name, 0.0) + weights
        mixing[name] = mixing.get(name, 0.0) + passes * kind.mixing_flops(config, context)
    return TrainingFlops(
        mixer_projections=projections,
        mixing=mixing,
        feed_forward=passes * _FLOPS_PER_WEIGHT * _feed_forward_parameters(config),
        head=passes * _FLOPS_PER_WEIGHT * config.vocabulary_size * config.width,
    )


def activation_memory(
    config: ModelConfig, context: int, batch: int = 1, gradient_checkpointing: bool = False
) -> dict[str, int]:
    """Bytes kept between forward and backward of `batch` rows of `context` tokens, float32 on CPU, by component.

    With `gradient_checkpointing` the inputs of all blocks, and everything of the one block that keeps most, which is
    computed again. What the loss keeps is not in it.
    """
    tokens = batch * context
    last_norm = 2 * config.width + 1
    layers = [_saved_by_layer(config, layer, context) for layer in range(config.layer_count)]
    kept: dict[str, float] = {"norms": last_norm}
    if gradient_checkpointing:
        kept["block_inputs"] = config.layer_count * config.width
        layers = [max(layers, key=lambda layer: sum(layer.values()))]
    for layer in layers:
        for name, elements in layer.items():
            kept[name] = kept.get(name, 0.0) + elements
    return {name: round(_FLOAT32_BYTES * elements * tokens) for name, elements in kept.items()}


def training_memory(
    config: ModelConfig, context: int, batch: int = 1, gradient_checkpointing: bool = False
) -> TrainingMemory:
    """What one process needs to train on `batch` rows of `context` tokens with AdamW, everything in float32.

    The allocator's slack and buffers that live inside one operation are not counted.
    """
    weights = _FLOAT32_BYTES * parameter_count(config).total
    tokens, head = batch * context, config.vocabulary_size * config.width
    logits = min(tokens, CHUNK_TOKENS) * config.vocabulary_size
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=activation_memory(config, context, batch, gradient_checkpointing),
        loss=_FLOAT32_BYTES * (tokens * config.width + head + logits),
    )


def cache_size(config: ModelConfig, context: int, element_bytes: int = 4) -> CacheSize:
    """What a sequence of `context` tokens keeps, with keys, values and convolution inputs of `element_bytes`."""
    sizes = [MIXERS[kind].cache_bytes(config, context, element_bytes) for kind in config.mixer_kinds]
    return CacheSize(keys_and_values=sum(size[0] for size in sizes), states=sum(size[1] for size in sizes))


def _feed_forward_parameters(config: ModelConfig) -> int:
    return 3 * config.width * config.feed_forward_width * _feed_forward_layers(config)


def _feed_forward_layers(config: ModelConfig) -> int:
    return sum(config.has_feed_forward(layer) for layer in range(config.layer_count))


def _saved_by_layer(config: ModelConfig, layer: int, context: int) -> dict[str, float]:
    """Float32 elements a token that one block keeps for its backward pass."""
    kind = config.mixer_kinds[layer]
    feed_forward = config.has_feed_forward(layer)
    return {
        # Each norm keeps its result before the weight, one factor a row, and what the next projections read.
        "norms": (1 + feed_forward) * (2 * config.width + 1),
        kind: MIXERS[kind].saved_elements(config, context),
        # Gate, its activation, the other half, their product.
        "feed_forward": 4 * config.feed_forward_width * feed_forward,
    }
