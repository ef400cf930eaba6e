"""Whether every training stage fits its GPUs, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from infra.errors import ConfigurationError
from model.ops import cuda_kernels
from model.sizing import GpuMemory, TrainingPlacement, gpu_training_memory, ways_to_fit
from tasks.training import TrainingStageConfig

#: Of a GPU's own memory, what tensors may take: CUDA, NCCL and the allocator's fragments need the rest.
TENSOR_SHARE = 0.94
_GB = 1e9


def stage_memory(stage: TrainingStageConfig) -> GpuMemory:
    """What one GPU holds at this stage's fullest moment."""
    return gpu_training_memory(stage.stage_model, stage.context_tokens, stage.placement(fused=_is_fused()))


def check_memory(stages: Sequence[TrainingStageConfig]) -> None:
    """Raise ConfigurationError, naming stage, bytes and the cheapest way to fit, for the first that does not fit.

    The GPUs are as large as `training.gpu_memory_gb` says, else as the one of this machine; without either nothing is
    checked.
    """
    for stage in stages:
        available = _available_bytes(stage)
        if available is None:
            return
        memory = stage_memory(stage)
        if memory.total > available:
            raise ConfigurationError(
                f"stage '{stage.name}' needs {memory.total / _GB:.1f} GB on each of {stage.ranks} GPUs (rows of "
                f"{stage.context_tokens:,} tokens; {_largest_parts(memory)}), which have {available / _GB:.1f} GB.",
                _cheapest(stage, available),
            )


def _is_fused() -> bool:
    """Whether the GPU kernels are installed here; a CPU says nothing of the GPUs it plans for, so there they are."""
    return bool(cuda_kernels.installed()) or not torch.cuda.is_available()


def _available_bytes(stage: TrainingStageConfig) -> float | None:
    if stage.gpu_memory_gb is not None:
        return stage.gpu_memory_gb * _GB
    if torch.cuda.is_available():
        return TENSOR_SHARE * torch.cuda.get_device_properties(0).total_memory
    return None


def _largest_parts(memory: GpuMemory) -> str:
    states = memory.weights + memory.gradients + memory.master_weights + memory.moments
    return (
        f"model and optimiser {states / _GB:.1f}, activations {memory.kept / _GB:.1f} and {memory.working / _GB:.1f} "
        f"more in the {memory.phase}, buffers {memory.communication / _GB:.1f}"
    )


def _cheapest(stage: TrainingStageConfig, available: float) -> str:
    ways = ways_to_fit(stage.stage_model, stage.context_tokens, available, stage.ranks, fused=_is_fused())
    if not ways:
        return f"nothing makes it fit {stage.ranks} such GPUs: use more ranks, shorter rows or a smaller model."
    way = ways[0]
    cpu = way.memory.cpu_total * stage.ranks
    return (
        f"the cheapest way to fit takes {way.memory.total / _GB:.1f} GB"
        + (f" and {cpu / _GB:.0f} GB of CPU memory" if cpu else "")
        + f": {', '.join(f'{name}={value}' for name, value in settings(way.placement).items())}."
    )


def settings(placement: TrainingPlacement) -> dict[str, object]:
    """A placement as fields of `training` or of a curriculum stage, those that differ from the defaults."""
    chosen: dict[str, object] = {
        "zero_stage": placement.zero_stage,
        "micro_batch": placement.micro_batch,
        "sequence_parallel": placement.sequence_parallel,
        "gradient_checkpointing": placement.gradient_checkpointing,
        "feed_forward_chunk_tokens": placement.feed_forward_chunk_tokens,
        "offload_activations": placement.offload_activations,
        "offload_optimizer": placement.offload_optimizer,
        "offload_parameters": placement.offload_parameters,
    }
    plain = {"sequence_parallel": 1, "feed_forward_chunk_tokens": None}
    kept = {name: value for name, value in chosen.items() if value is not False and value != plain.get(name, 0)}
    return kept
