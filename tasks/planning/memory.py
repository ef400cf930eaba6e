"""The grid: memory of every stage by ZeRO stage, recomputation, offloading and micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from model.sizing import Rates, TrainingPlacement, largest_context, slowdown
from tasks.planning.placement import divides_batch, memory_row
from tasks.planning.plan import MemoryRow
from tasks.training import TrainingStageConfig

_MICRO_BATCHES = (1, 2, 4, 8, 16)
#: (recomputed, block inputs in CPU memory)
_ACTIVATIONS = ((False, False), (True, False), (True, True))
#: (optimiser, weights in CPU memory)
_STATES = ((False, False), (True, False), (True, True))


def memory_grid(stages: Sequence[TrainingStageConfig], gpu_sizes_gb: Sequence[float]) -> tuple[MemoryRow, ...]:
    """Every stage in every placement that DeepSpeed has for its precision, the profile's own first and marked.

    The longest context is told for one row at a time and each size of GPU (10^9 bytes).
    """
    contexts: dict[TrainingPlacement, dict[str, int]] = {}
    rows = []
    for stage in stages:
        own = stage.placement()
        for placement in _placements(stage, own):
            if placement.micro_batch == 1 and placement not in contexts:
                contexts[placement] = {
                    f"{size:g}": largest_context(stage.model, size * 1e9, placement) for size in gpu_sizes_gb
                }
            added = slowdown(stage.stage_model, stage.context_tokens, placement, _rates(stage))
            longest = contexts.get(placement) if placement.micro_batch == 1 else None
            rows.append(memory_row(stage, placement, added, is_profile=placement == own, largest_contexts=longest))
    return tuple(rows)


def _rates(stage: TrainingStageConfig) -> Rates:
    return Rates(batch_tokens=stage.batch_tokens)


def _placements(stage: TrainingStageConfig, own: TrainingPlacement) -> Iterator[TrainingPlacement]:
    """The profile's own placement, then the grid without it; rows stay whole, or shared as the profile has it."""
    yield own
    zero_stages = [1, 2, 3] if stage.precision == "bf16" else [0, 1, 2, 3]
    if stage.optimizer == "muon":
        zero_stages = [0]  # which shards no matrix
    sizes = sorted({1, own.sequence_parallel})
    for zero, (recomputed, inputs_away), (optimizer_away, weights_away), size, micro in product(
        zero_stages, _ACTIVATIONS, _STATES, sizes, _MICRO_BATCHES
    ):
        if (optimizer_away and zero == 0) or (weights_away and zero != 3):
            continue
        placement = replace(
            own, zero_stage=zero, micro_batch=micro, sequence_parallel=size,
            gradient_checkpointing=recomputed, offload_activations=inputs_away,
            offload_optimizer=optimizer_away, offload_parameters=weights_away,
        )  # fmt: skip
        if placement != own and divides_batch(stage, placement):
            yield placement
