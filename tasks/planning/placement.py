"""How stages are placed on so many GPUs: as the profile says, or otherwise where that does not fit."""

from __future__ import annotations

import math

from pydantic import ValidationError

from model.sizing import GpuMemory, TrainingPlacement, WayToFit, gpu_training_memory, ways_to_fit
from tasks.planning.plan import MemoryRow
from tasks.training import TrainingStageConfig


def on_ranks(stage: TrainingStageConfig, ranks: int) -> TrainingStageConfig | None:
    """The stage on so many ranks, its batch dealt anew; None when the ranks cannot share the batch equally."""
    if ranks == stage.ranks:
        return stage
    changes: dict[str, object] = {"ranks": ranks, "nodes": 1, "rendezvous_address": None}
    if stage.micro_batch is not None:
        rows = stage.rows_per_step // max(1, ranks // stage.sequence_parallel)
        changes["micro_batch"] = math.gcd(stage.micro_batch, rows) or 1
    try:
        return TrainingStageConfig.model_validate(stage.model_dump() | changes)
    except ValidationError:
        return None


def divides_batch(stage: TrainingStageConfig, placement: TrainingPlacement) -> bool:
    """Whether the stage's batch is a whole number of micro-batches on every rank."""
    groups = placement.ranks // placement.sequence_parallel
    return stage.rows_per_step % (groups * placement.micro_batch) == 0


def fitting_ways(stage: TrainingStageConfig, gpu_bytes: float) -> list[WayToFit]:
    """Other placements of the stage that fit GPUs of `gpu_bytes`, in bf16, the cheapest first."""
    ways = ways_to_fit(stage.stage_model, stage.context_tokens, gpu_bytes, stage.ranks)
    return [way for way in ways if divides_batch(stage, way.placement)]


def memory_row(
    stage: TrainingStageConfig,
    placement: TrainingPlacement,
    slowdown: float,
    *,
    is_profile: bool = False,
    largest_contexts: dict[str, int] | None = None,
) -> MemoryRow:
    """The bytes of a stage so placed."""
    memory = gpu_training_memory(stage.stage_model, stage.context_tokens, placement)
    return MemoryRow(
        stage=stage.name,
        context_tokens=stage.context_tokens,
        ranks=placement.ranks,
        zero_stage=placement.zero_stage,
        micro_batch=placement.micro_batch,
        sequence_parallel=placement.sequence_parallel,
        gradient_checkpointing=placement.gradient_checkpointing,
        offload_activations=placement.offload_activations,
        offload_optimizer=placement.offload_optimizer,
        offload_parameters=placement.offload_parameters,
        feed_forward_chunk_tokens=placement.feed_forward_chunk_tokens,
        **_bytes(memory, placement.ranks),
        largest_contexts=largest_contexts or {},
        slowdown=slowdown,
        is_profile=is_profile,
    )


def _bytes(memory: GpuMemory, ranks: int) -> dict[str, int]:
    return {
        "weights_bytes": memory.weights,
        "gradients_bytes": memory.gradients,
        "optimizer_bytes": memory.master_weights + memory.moments,
        "buffers_bytes": memory.communication,
        "activations_bytes": memory.kept + memory.working,
        "cpu_bytes": memory.cpu_total * ranks,
    }
