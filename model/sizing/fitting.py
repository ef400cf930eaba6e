"""What fits into a GPU: the longest context, and the ways to make a context fit, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.sequence_parallel import check_sequence_parallel
from model.sizing.counts import parameter_count, training_flops_per_token
from model.sizing.gpu_memory import GpuMemory, gpu_training_memory
from model.sizing.placement import TrainingPlacement

#: Contexts are tried in steps of so many tokens.
CONTEXT_STEP = 1024
_LONGEST_CONTEXT = 1 << 26
_MICRO_BATCHES = (1, 2, 4, 8, 16)
_CHUNK_TOKENS = 8192


@dataclass(frozen=True)
class Rates:
    """What a measure costs is told from these: assumptions for an A100 (80 GB) with NVLink, none of them measured."""

    flops_per_second: float = 0.4 * 312e12
    link_bytes_per_second: float = 230e9  # one GPU to the others
    host_bytes_per_second: float = 20e9  # one GPU to the processor's memory and back
    cpu_bytes_per_second: float = 20e9  # the processor's memory, one GPU's share
    batch_tokens: int = 1 << 21  # of one update, all GPUs together


@dataclass(frozen=True)
class WayToFit:
    """One placement, what it takes, and what it costs: added time as a share of the time of a step without it."""

    placement: TrainingPlacement
    memory: GpuMemory
    slowdown: float


def largest_context(config: ModelConfig, gpu_bytes: float, placement: TrainingPlacement) -> int:
    """The longest context, a multiple of 1,024 tokens and of the ranks that share rows, that fits; 0 if none does."""
    step = CONTEXT_STEP * placement.sequence_parallel
    fits, too_long = 0, _LONGEST_CONTEXT // step
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if gpu_training_memory(config, middle * step, placement).total <= gpu_bytes:
            fits = middle
        else:
            too_long = middle
    return fits * step


def ways_to_fit(
    config: ModelConfig,
    context: int,
    gpu_bytes: float,
    gpus: int,
    *,
    cpu_bytes: float | None = None,
    fused: bool = True,
    rates: Rates | None = None,
) -> list[WayToFit]:
    """Every placement in bf16 that fits rows of `context` tokens on `gpus` GPUs of `gpu_bytes`, the cheapest first.

    `cpu_bytes` bounds the processor's memory of all GPUs together. Costs count recomputing, exchanges and transfers
    (`slowdown`), none of them overlapped. Empty when nothing fits.
    """
    rates = rates or Rates()
    ways = []
    for placement in _placements(config, context, gpus, fused):
        memory = gpu_training_memory(config, context, placement)
        if memory.total <= gpu_bytes and (cpu_bytes is None or memory.cpu_total * gpus <= cpu_bytes):
            ways.append(WayToFit(placement, memory, slowdown(config, context, placement, rates)))
    return sorted(ways, key=lambda way: (way.slowdown, len(way.placement.measures), way.memory.total))


def slowdown(config: ModelConfig, context: int, placement: TrainingPlacement, rates: Rates) -> float:
    """Time added by `placement`, as a share of the bare computation's."""
    flops = training_flops_per_token(config, context)
    bare = flops.total / rates.flops_per_second
    added = 0.0
    if placement.gradient_checkpointing:
        added += (flops.total - flops.head) / 3 / rates.flops_per_second
    if placement.feed_forward_chunk_tokens is not None:
        added += flops.feed_forward / 3 / rates.flops_per_second
    element, ranks = placement.element_bytes, placement.ranks
    weights = parameter_count(config).total * element
    tokens = placement.micro_batch * context / placement.sequence_parallel
    if ranks > 1:
        # Gradients are summed each micro-batch; ZeRO-3 gathers weights for both passes.
        sent = weights * (2 * (ranks - 1) / ranks) * (1 if placement.zero_stage < 3 else 1.5)
        added += sent / rates.link_bytes_per_second / tokens
    if placement.sequence_parallel > 1:
        narrow = config.key_value_heads * config.head_dim
        exchanged = 4 * (config.width + narrow) * element * config.mixer_kinds.count("attention")
        added += exchanged / rates.link_bytes_per_second
    if placement.offload_activations:
        added += 2 * config.layer_count * config.width * element / rates.host_bytes_per_second
    if placement.offload_parameters:
        added += 2 * weights / ranks / rates.host_bytes_per_second / tokens
    if placement.offload_optimizer:
        added += _offloaded_update(weights / element, placement, tokens, rates)
    return added / bare


def _offloaded_update(parameters: float, placement: TrainingPlacement, tokens: float, rates: Rates) -> float:
    """Seconds a token for gradients going out (each micro-batch and back, in ZeRO-3) and AdamW on the processor."""
    share = parameters / placement.ranks
    own_tokens = rates.batch_tokens / placement.ranks
    transfers = (8 * share / tokens if placement.zero_stage == 3 else 0) + 6 * share / own_tokens
    return transfers / rates.host_bytes_per_second + 28 * share / own_tokens / rates.cpu_bytes_per_second


def _placements(config: ModelConfig, context: int, gpus: int, fused: bool) -> Iterator[TrainingPlacement]:
    """All that can be asked for, sensible or not."""
    switches = product((False, True), (False, True), (False, True), (None, _CHUNK_TOKENS))
    for optimizer_away, parameters_away, activations_away, chunk in switches:
        for stage in (1, 2, 3):
            if parameters_away and (stage != 3 or not optimizer_away):
                continue  # DeepSpeed was only looked at with both away
            for size in _sequence_sizes(config, context, gpus):
                base = TrainingPlacement(
                    ranks=gpus, zero_stage=stage, sequence_parallel=size, fused=fused,
                    offload_optimizer=optimizer_away, offload_parameters=parameters_away,
                    gradient_checkpointing=True, offload_activations=activations_away, feed_forward_chunk_tokens=chunk,
                )  # fmt: skip
                for micro_batch in _MICRO_BATCHES:
                    yield replace(base, micro_batch=micro_batch)
                    if not activations_away:
                        yield replace(base, micro_batch=micro_batch, gradient_checkpointing=False)


def _sequence_sizes(config: ModelConfig, context: int, gpus: int) -> list[int]:
    sizes = []
    for size in range(1, gpus + 1):
        if gpus % size:
            continue
        try:
            check_sequence_parallel(config, context, size)
        except ConfigurationError:
            continue
        sizes.append(size)
    return sizes
