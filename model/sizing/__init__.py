"""How big and how expensive a model is, from its configuration alone."""

from __future__ import annotations

from model.sizing.counts import (
    CacheSize,
    ParameterCount,
    TrainingFlops,
    cache_size,
    parameter_count,
    training_flops_per_token,
)
from model.sizing.deepspeed_states import ModelStates, model_states
from model.sizing.fitting import Rates, WayToFit, largest_context, slowdown, ways_to_fit
from model.sizing.gpu_memory import GpuMemory, gpu_training_memory
from model.sizing.placement import TrainingPlacement
from model.sizing.process_memory import TrainingMemory, activation_memory, training_memory

__all__ = [
    "CacheSize",
    "GpuMemory",
    "ModelStates",
    "ParameterCount",
    "Rates",
    "TrainingFlops",
    "TrainingMemory",
    "TrainingPlacement",
    "WayToFit",
    "activation_memory",
    "cache_size",
    "gpu_training_memory",
    "largest_context",
    "model_states",
    "parameter_count",
    "slowdown",
    "training_flops_per_token",
    "training_memory",
    "ways_to_fit",
]
