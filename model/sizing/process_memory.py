"""What one process in float32 on a CPU holds while training, from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig
from model.mixers import MIXERS
from model.ops.cross_entropy import CHUNK_TOKENS
from model.sizing.counts import parameter_count

_FLOAT32_BYTES = 4


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
