"""What one process in float32 on a CPU holds while training, from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.config import ModelConfig
from model.mixers import MIXERS
from model.ops.cross_entropy import CHUNK_TOKENS
from model.sizing.counts import parameter_count
from model.sizing.layer_memory import Execution, feed_forward_bytes, mixer_bytes

_FLOAT32_BYTES = 4
_EXECUTION = Execution(_FLOAT32_BYTES, fused=False)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training one process in float32 holds, by part, and its fullest moment, `phase`.

    The phases: the `loss`, when all activations wait and logits exist; the `backward` pass of the block that needs
    most, when the loss's buffers are gone; the optimiser's `update`, when activations are. `peak` is the fullest one's.
    """

    weights: int
    gradients: int
    optimizer: int  # AdamW's two moments, or Muon's one of hidden matrices
    activations: dict[str, int]  # by mixer kind, `feed_forward`, `norms`; `block_inputs` where recomputed
    loss: int  # gradients of the head's input and weight, and one chunk of logits
    phase: Literal["loss", "backward", "update"]
    peak: int

    @property
    def total(self) -> int:
        """The most bytes held at once."""
        return self.peak


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
    config: ModelConfig,
    context: int,
    batch: int = 1,
    gradient_checkpointing: bool = False,
    *,
    optimizer: Literal["adamw", "muon"] = "adamw",
    accumulates: bool = True,
) -> TrainingMemory:
    """What one process needs to train on `batch` rows of `context` tokens, everything in float32.

    accumulates: whether an update has several micro-batches, whose gradients then exist beside all activations; those
    of a single one come as activations go. The allocator's slack and buffers inside one operation are not counted.
    """
    weights = _FLOAT32_BYTES * parameter_count(config).total
    activations = activation_memory(config, context, batch, gradient_checkpointing)
    moments = 2 * weights - (_FLOAT32_BYTES * _hidden_matrices(config) if optimizer == "muon" else 0)
    phases = _phases(config, batch * context, activations, gradient_checkpointing, weights if accumulates else 0)
    largest = _FLOAT32_BYTES * max(config.vocabulary_size, config.feed_forward_width) * config.width
    phases["update"] = weights + 2 * largest  # AdamW's square roots and their quotients, one parameter at a time
    phase = max(phases, key=lambda name: phases[name])
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=moments,
        activations=activations,
        loss=_loss_kept(config, batch * context) + _logits(config, batch * context),
        phase=phase,
        peak=weights + moments + phases[phase],
    )


def _phases(
    config: ModelConfig, tokens: int, activations: dict[str, int], recomputed: bool, gradients: int
) -> dict[Literal["loss", "backward", "update"], int]:
    """Bytes beside weights and moments while the loss is computed and in the backward pass."""
    kept = sum(activations.values())
    stream, head = (_FLOAT32_BYTES * config.width * count for count in (tokens, config.vocabulary_size))
    last_norm = _FLOAT32_BYTES * tokens * (2 * config.width + 1)
    # A block that is recomputed exists in the backward pass alone.
    waiting = activations["block_inputs"] + last_norm if recomputed else kept
    # The next chunk's logits and gradient of the head are made while the last one's are still there.
    again = _logits(config, tokens - CHUNK_TOKENS) + head if tokens > CHUNK_TOKENS else 0
    return {
        "loss": gradients + waiting + stream + _loss_kept(config, tokens) + _logits(config, tokens) + again,
        # The head's gradient waits for the embedding's; the last norm is done with when the blocks' turn comes.
        "backward": gradients + head + kept - last_norm + stream + _backward_working(config, tokens),
    }


def _loss_kept(config: ModelConfig, tokens: int) -> int:
    """Gradients of the head's input and weight."""
    return _FLOAT32_BYTES * config.width * (tokens + config.vocabulary_size)


def _logits(config: ModelConfig, tokens: int) -> int:
    """Those of the first chunk of so many tokens."""
    return _FLOAT32_BYTES * min(tokens, CHUNK_TOKENS) * config.vocabulary_size


def _backward_working(config: ModelConfig, tokens: int) -> int:
    """The most that a block's backward pass needs beside what was kept: in its feed-forward, or, once that is done and
    its activations are gone, in its mixer.
    """
    stream = _FLOAT32_BYTES * config.width
    most = 0.0
    for layer, kind in enumerate(config.mixer_kinds):
        mixer = mixer_bytes(kind, config, _EXECUTION)
        after = feed_forward_bytes(config, _EXECUTION)
        if config.has_feed_forward(layer):
            most = max(most, after.peak - after.kept + stream, mixer.peak - mixer.kept - after.kept)
        else:
            most = max(most, mixer.peak - mixer.kept)
    return round(most * tokens)


def _hidden_matrices(config: ModelConfig) -> int:
    """Elements of the matrices that Muon updates, of which it keeps one moment: projections and feed-forwards."""
    projections = sum(MIXERS[kind].linear_parameter_count(config) for kind in config.mixer_kinds)
    feed_forwards = sum(config.has_feed_forward(layer) for layer in range(config.layer_count))
    return projections + 3 * config.width * config.feed_forward_width * feed_forwards


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
