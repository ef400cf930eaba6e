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
from model.sizing.process_memory import TrainingMemory, activation_memory, training_memory

__all__ = [
    "CacheSize",
    "ParameterCount",
    "TrainingFlops",
    "TrainingMemory",
    "activation_memory",
    "cache_size",
    "parameter_count",
    "training_flops_per_token",
    "training_memory",
]
