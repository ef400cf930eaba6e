"""Calibrations made up from known rates, so that what is fitted and predicted can be checked exactly."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from model import ModelConfig
from tasks.calibration import Calibration, Hardware, Measurement, Setup, Variant, fit_step_time
from tasks.calibration.work import work_of
from tasks.training import TrainingStageConfig

MODEL = ModelConfig(
    vocabulary_size=512, width=64, layer_count=4, attention_heads=2, key_value_heads=1, feed_forward_width=128,
    hgrn2_head_dim=32, maximum_context=65536,
)  # fmt: skip
HARDWARE = Hardware(kind="cpu", name="Imagined 9000", devices=1, cores=2, memory_bytes=8 << 30)
CALL_SECONDS, FLOP_SECONDS, PAIR_SECONDS, UPDATE_SECONDS = 0.004, 1 / 40e9, 1 / 15e9, 0.02
POINTS = ((64, 1), (64, 8), (256, 1), (256, 4), (1024, 1), (1024, 2), (4096, 1))


def stage(
    context: int = 256, *, batch_tokens: int = 8192, model: ModelConfig = MODEL, **fields: Any
) -> TrainingStageConfig:
    """A stage of ten updates."""
    defaults: dict[str, Any] = {"tokens": 10 * batch_tokens, "learning_rate": 1e-3, "name": "imagined"}
    return TrainingStageConfig(context_tokens=context, batch_tokens=batch_tokens, model=model, **(defaults | fields))


def true_micro_batch_seconds(context: int, rows: int, variant: Variant, model: ModelConfig = MODEL) -> float:
    """By the made-up rates."""
    work = work_of(model, context, rows, variant)
    return CALL_SECONDS + FLOP_SECONDS * work.by_token + PAIR_SECONDS * work.by_pair


def measurements(
    points: Iterable[tuple[int, int]] = POINTS, variant: Variant | None = None, noise: Iterable[float] | None = None
) -> list[Measurement]:
    """Each point as the rates have it, times its noise."""
    variant = variant or Variant()
    points = list(points)
    factors = list(noise) if noise is not None else [1.0] * len(points)
    return [
        Measurement(
            variant=variant, context_tokens=context, micro_batch=rows, updates=5,
            micro_batch_seconds=factor * true_micro_batch_seconds(context, rows, variant),
            update_seconds=UPDATE_SECONDS, spread=0.01,
        )
        for (context, rows), factor in zip(points, factors, strict=True)
    ]  # fmt: skip


def calibration(**fields: Any) -> Calibration:
    """Of the plain variant of `MODEL`."""
    points = measurements()
    defaults: dict[str, Any] = {
        "measured_at": datetime(2026, 11, 22, tzinfo=UTC),
        "hardware": HARDWARE,
        "setup": Setup(),
        "model": MODEL,
        "torch_version": "2.13.0",
        "peak_flops": 100e9,
        "peak_origin": "imagined",
        "measurements": points,
        "step_times": (fit_step_time(MODEL, points),),
        "startup_seconds": 5.0,
        "evaluation_share": 0.3,
        "checkpoint_stall_seconds": 0.01,
        "measuring_seconds": 80.0,
    }
    return Calibration(**(defaults | fields))
