"""What one GPU, and the processor for it, must hold to train: states, activations, loss and buffers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from model.config import ModelConfig
from model.mixers import MIXERS
from model.ops.cross_entropy import CHUNK_TOKENS
from model.sequence_parallel import check_sequence_parallel
from model.sizing.counts import parameter_count
from model.sizing.deepspeed_states import ModelStates, model_states, pinned_bytes
from model.sizing.layer_memory import Execution, PartBytes, feed_forward_bytes, mixer_bytes
from model.sizing.placement import TrainingPlacement

_FLOAT32 = 4
# An inverse root mean square of each of the two norms, float32.
_NORM_SCALARS = 8
# Block inputs on the GPU at once while the others are away: the one in use and the one on its way.
_RETURNING = 2


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of one rank at its fullest moment.

    `kept` is what waits for the backward pass, `working` what the fullest of the three phases needs beside it: the
    `loss`, the `backward` pass of the fullest block, the optimiser's `update` (after which nothing is kept).
    """

    weights: int
    gradients: int
    master_weights: int
    moments: int
    communication: int
    kept: int
    working: int
    phase: str
    cpu: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All bytes on the GPU."""
        states = self.weights + self.gradients + self.master_weights + self.moments
        return states + self.communication + self.kept + self.working

    @property
    def cpu_total(self) -> int:
        """All bytes in the processor's memory, for this rank alone."""
        return sum(self.cpu.values())


def gpu_training_memory(config: ModelConfig, context: int, placement: TrainingPlacement) -> GpuMemory:
    """Memory of a training step on rows of `context` tokens: tensors alone, with every row one document.

    What CUDA, NCCL and the allocator's fragments take is not in it; leave 5 to 10% of a GPU for them. Raises
    ConfigurationError for rows that cannot be shared as `placement` says.
    """
    check_sequence_parallel(config, context, placement.sequence_parallel)
    states = model_states(parameter_count(config).total, largest_parameter(config), placement)
    tokens = placement.micro_batch * (context // placement.sequence_parallel)
    kept, cpu_kept, backward = _activations(config, tokens, placement)
    phases = {
        "loss": kept + _loss_bytes(config, tokens, placement.element_bytes),
        "backward": kept + backward + states.communication,
        "update": states.update,
    }
    phase = max(phases, key=lambda name: phases[name])
    held = 0 if phase == "update" else kept
    communication = states.communication if phase == "backward" else 0
    return GpuMemory(
        weights=states.weights,
        gradients=states.gradients,
        master_weights=states.master_weights,
        moments=states.moments,
        communication=communication,
        kept=round(held),
        working=round(phases[phase] - held - communication),
        phase=phase,
        cpu=_cpu(states, cpu_kept),
    )


def largest_parameter(config: ModelConfig) -> int:
    """Elements of the largest parameter."""
    largest_projection = max(
        config.width * config.feed_forward_width,
        max(MIXERS[kind].linear_parameter_count(config) // 2 for kind in set(config.mixer_kinds)),
    )
    return max(config.vocabulary_size * config.width, largest_projection)


def _cpu(states: ModelStates, activations: int) -> dict[str, int]:
    return states.cpu | ({"activations": activations} if activations else {})


def _activations(config: ModelConfig, tokens: int, placement: TrainingPlacement) -> tuple[float, int, float]:
    """Bytes kept on the GPU, kept in the processor's memory, and needed besides by the fullest block's backward."""
    execution = Execution(placement.element_bytes, placement.fused, placement.sequence_parallel)
    stream = config.width * placement.element_bytes * tokens  # hidden states, once
    kinds = config.mixer_kinds
    layers = {(kind, config.has_feed_forward(kinds.index(kind))): count for kind, count in Counter(kinds).items()}
    blocks = {key: _block(config, key, tokens, placement, execution) for key in layers}
    last = stream + _FLOAT32 * tokens  # what the last norm reads
    if not placement.gradient_checkpointing:
        kept = sum(count * (blocks[key].kept + stream) for key, count in layers.items())
        return kept + last, 0, max(block.peak - block.kept for block in blocks.values())
    working = max(block.peak for block in blocks.values())
    if placement.offload_activations:
        return _RETURNING * stream + last, config.layer_count * pinned_bytes(stream), working
    return config.layer_count * stream + last, 0, working


def _block(
    config: ModelConfig, key: tuple[str, bool], tokens: int, placement: TrainingPlacement, execution: Execution
) -> PartBytes:
    """Bytes of one block, all its tokens, without its input: kept, and at its backward's fullest moment."""
    kind, has_feed_forward = key
    stream = config.width * placement.element_bytes * tokens
    mixer = mixer_bytes(kind, config, execution)
    kept = stream + (mixer.kept + _NORM_SCALARS) * tokens
    # The gradient of the block's output, which the residual branch hands on, and that of the mixer's.
    peak = kept + (mixer.peak - mixer.kept) * tokens + 2 * stream
    if not has_feed_forward:
        return PartBytes(kept, peak)
    feed_forward = feed_forward_bytes(config, execution)
    chunk = placement.feed_forward_chunk_tokens
    if chunk is not None and chunk < tokens // placement.micro_batch:
        # The input of all chunks at once, and its gradient in parts and put together; inside, one chunk's at a time.
        kept += stream
        inside = (feed_forward.peak + 3 * config.width * placement.element_bytes) * chunk * placement.micro_batch
        return PartBytes(kept, max(peak + stream, kept + 3 * stream + inside))
    kept_before = kept
    kept += 2 * stream + feed_forward.kept * tokens
    return PartBytes(kept, max(peak, kept_before + 3 * stream + feed_forward.peak * tokens))


def _loss_bytes(config: ModelConfig, tokens: int, element: int) -> float:
    """The chunked cross entropy's most: the states the head reads and their gradients, while chunks are put together or
    while these, and the head's gradient, are multiplied with the loss's.
    """
    states = tokens * config.width * element
    head = config.vocabulary_size * config.width * element
    logits = min(tokens, CHUNK_TOKENS) * config.vocabulary_size * (2 * element + _FLOAT32)
    return max(2 * states + 2 * head + logits, 3 * states + head, 2 * states + 2 * head)
