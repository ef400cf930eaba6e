"""The hybrid language model, usable alone: `from model import HybridLM, ModelConfig, load, save, generate`."""

from __future__ import annotations

from model.cache import Cache, SnapshotPolicy
from model.checkpoints import load, load_config, save
from model.config import ModelConfig
from model.errors import (
    CacheError,
    CheckpointError,
    ConfigurationError,
    GenerationCancelled,
    GenerationError,
    ModelError,
)
from model.generation import GREEDY, SamplingConfig, generate, prefill, resume, rewind, stream
from model.language_model import HybridLM
from model.presets import PRESETS, preset
from model.sequence_parallel import SequenceParallel, check_sequence_parallel, slice_batch
from model.sizing import cache_size, parameter_count, training_flops_per_token

__all__ = [
    "GREEDY",
    "PRESETS",
    "Cache",
    "CacheError",
    "CheckpointError",
    "ConfigurationError",
    "GenerationCancelled",
    "GenerationError",
    "HybridLM",
    "ModelConfig",
    "ModelError",
    "SamplingConfig",
    "SequenceParallel",
    "SnapshotPolicy",
    "cache_size",
    "check_sequence_parallel",
    "generate",
    "load",
    "load_config",
    "parameter_count",
    "prefill",
    "preset",
    "resume",
    "rewind",
    "save",
    "slice_batch",
    "stream",
    "training_flops_per_token",
]
