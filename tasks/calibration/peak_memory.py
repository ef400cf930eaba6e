"""Peak memory of training on a CPU: what the system gave the process for the model, and what sizing says.

What is measured is the growth of the resident set (what `top` shows) over the process as it is once everything that
does not grow with the model is there: before the model is built, one with a single layer of each mixer is trained for
two updates of the same rows and let go. It leaves the code (about 170 MB) and what oneDNN and MKL compile and keep for
products of these shapes (about 10 MB). The process returns freed tensors to the system at once
(`RETURNING_ENVIRONMENT`), as a GPU's allocator would reuse them. With the system's own settings glibc keeps part of
what is freed, and the resident set is larger by that slack.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch

from infra.errors import ConfigurationError
from model.sizing import gpu_training_memory, training_memory
from tasks.training import TrainingStageConfig
from tasks.training.data_order import Batch
from tasks.training.engine import Placement, TrainingEngine
from tasks.training.job import emit

#: glibc gives every tensor of 64 KiB and more pages of its own, and takes them back when it is freed.
RETURNING_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
)
#: The optimiser's moments exist from the first update's end, and the second one trains beside them.
_UPDATES = 2
_WARM_UP_UPDATES = 1
_STATUS, _CLEAR_REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


def predicted_memory(stage: TrainingStageConfig, kind: str) -> int | None:
    """Bytes that `model.sizing` says one rank needs; None where it has no formula (ZeRO or bf16 on a CPU)."""
    plan = stage.batch_plan
    if kind == "cuda":
        return gpu_training_memory(stage.stage_model, stage.context_tokens, stage.placement(fused=_is_fused())).total
    if stage.zero_stage or stage.precision != "fp32" or stage.sequence_parallel > 1 or stage.feed_forward_chunk_tokens:
        return None
    return training_memory(
        stage.stage_model,
        stage.context_tokens,
        plan.micro_batch,
        stage.gradient_checkpointing,
        optimizer=stage.optimizer,
        accumulates=plan.accumulation > 1,
    ).total


def _is_fused() -> bool:
    from model.ops import cuda_kernels

    return bool(cuda_kernels.installed())


def tell_peaks(points: Sequence[TrainingStageConfig], placement: Placement, deepspeed: ModuleType) -> None:
    """Tell the peak of each point, the least tokens first, all with one engine. Every rank calls this."""
    _leave_what_stays(points, placement, deepspeed)
    before = _reset_peak()
    engine = TrainingEngine(points[0], placement, deepspeed)
    for number, stage in enumerate(points):
        _reset_peak()
        _train(engine, stage, _UPDATES)
        if placement.is_first:
            emit("peak", {"point": number, "measured_bytes": _resident("VmHWM") - before})


def _leave_what_stays(points: Sequence[TrainingStageConfig], placement: Placement, deepspeed: ModuleType) -> None:
    """Train one layer of each mixer on rows of every point, and let it go."""
    kinds = tuple(dict.fromkeys(points[0].model.mixer_kinds))
    small = points[0].model.changed(layer_kinds=kinds, layer_count=len(kinds))
    engine = TrainingEngine(points[0].model_copy(update={"model": small}), placement, deepspeed)
    for stage in points:
        _train(engine, stage, _WARM_UP_UPDATES)
    del engine
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _train(engine: TrainingEngine, stage: TrainingStageConfig, updates: int) -> None:
    plan = stage.batch_plan
    shape = plan.micro_batch, stage.context_tokens // stage.sequence_parallel
    for _ in range(updates):
        for micro_step in range(plan.accumulation):
            tokens, targets = torch.randint(stage.model.vocabulary_size, (2, *shape))
            engine.forward_backward(Batch(tokens, targets, torch.zeros_like(tokens)), 1.0)
            if micro_step < plan.accumulation - 1:
                engine.pass_over()
        engine.update(stage.learning_rate)


def _reset_peak() -> int:
    """Let the peak begin at what is held now, and return that."""
    try:
        _CLEAR_REFERENCES.write_text(_RESET_PEAK)
    except OSError as error:
        raise ConfigurationError(
            f"peak memory cannot be measured here: {_CLEAR_REFERENCES} {error.strerror or error}.",
            "calibrate on Linux with a writable /proc, or without memory (--no-memory).",
        ) from error
    return _resident("VmRSS")


def _resident(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise ConfigurationError(f"{_STATUS} has no {name}.", "calibrate on Linux.")
