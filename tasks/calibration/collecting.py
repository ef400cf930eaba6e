"""Starts the processes that measure, and collects what they tell."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError
from infra.processes import ChildFailed, run_streaming
from tasks.calibration.job import CalibrationJob, write_random_documents
from tasks.calibration.measurement import Measurement, MemoryMeasurement
from tasks.calibration.peak_memory import RETURNING_ENVIRONMENT, predicted_memory
from tasks.calibration.setup import Variant
from tasks.training import TrainingStageConfig
from tasks.training.launch import Attempt, trainer_command, trainer_environment

MEASURING_MODULE = "tasks.calibration.measuring"
#: A start and a first update are not counted in the time given; beyond this the model is too slow for the machine.
PATIENCE_SECONDS = 120.0

#: Called with what has just been measured, for people.
Say = Callable[[str], None]


@dataclass
class Collected:
    """What the processes of one variant told: seconds (a micro-batch, beside them), peaks in bytes, other facts."""

    points: Sequence[TrainingStageConfig]
    updates: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: list[TrainingStageConfig] = field(default_factory=list)

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take one event; the trainer's own are passed over."""
        kind = event["event"]
        if kind == "measured":
            pair = event["micro_batch_seconds"], event["update_seconds"]
            self.updates.setdefault(event["point"], []).append(pair)
        elif kind == "peak":
            self.peaks[event["point"]] = event["measured_bytes"]
        elif kind == "skipped":
            self.skipped.append(self.points[event["point"]])
        elif kind in ("started", "overheads", "process"):
            self.facts |= {name: value for name, value in event.items() if name != "event"}

    def measurements(self) -> list[Measurement]:
        """Of the points that were measured."""
        return [measurement_of(self.points[number], pairs) for number, pairs in sorted(self.updates.items())]

    def memory(self, kind: str) -> list[MemoryMeasurement]:
        """Peaks beside their prediction, of points for which there is one."""
        predicted = {number: predicted_memory(self.points[number], kind) for number in sorted(self.peaks)}
        return [
            MemoryMeasurement(
                variant=Variant.of(self.points[number]),
                context_tokens=self.points[number].context_tokens,
                micro_batch=self.points[number].batch_plan.micro_batch,
                measured_bytes=self.peaks[number],
                predicted_bytes=size,
            )
            for number, size in predicted.items()
            if size is not None
        ]


def measure_speed(points: Sequence[TrainingStageConfig], seconds: float, say: Say) -> Collected:
    """Updates of each point, in turn, for about `seconds` after the start; on a GPU also peaks."""
    collected = Collected(points)
    with tempfile.TemporaryDirectory(prefix="sam2-calibration-") as name:
        shard = Path(name) / "random-00000"
        write_random_documents(shard, tuple(points))
        began = time.monotonic()
        job = CalibrationJob(what="speed", points=tuple(points), seconds=seconds, shard=shard, directory=Path(name))
        _run(job, collected, say)
        collected.facts["startup_seconds"] = collected.facts.pop("started_at", time.monotonic()) - began
    return collected


def measure_memory(points: Sequence[TrainingStageConfig], *, returning: bool = True) -> Collected:
    """Peak memory of each point on a CPU, in one process of its own.

    returning: whether it gives freed tensors back to the system at once; else as the trainer's own process does.
    """
    collected = Collected(points)
    with tempfile.TemporaryDirectory(prefix="sam2-calibration-") as name:
        job = CalibrationJob(
            what="memory", points=tuple(points), seconds=0, shard=Path(name) / "none", directory=Path(name)
        )
        _run(job, collected, lambda text: None, RETURNING_ENVIRONMENT if returning else {})
    return collected


def measurement_of(stage: TrainingStageConfig, pairs: Sequence[tuple[float, float]]) -> Measurement:
    """Lower quartiles over updates of (seconds a micro-batch, seconds beside them): other load only ever adds time."""
    passes, beside = (_quartiles([pair[part] for pair in pairs]) for part in (0, 1))
    return Measurement(
        variant=Variant.of(stage),
        context_tokens=stage.context_tokens,
        micro_batch=stage.batch_plan.micro_batch,
        updates=len(pairs),
        micro_batch_seconds=passes[0],
        update_seconds=max(0.0, beside[0]),
        # Of the quartile, not of one update: it moves by the root of their number less.
        spread=(passes[2] - passes[0]) / 2 / passes[1] / math.sqrt(len(pairs)),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _run(job: CalibrationJob, collected: Collected, say: Say, environment: Mapping[str, str] | None = None) -> None:
    """Run the ranks to their end. Raises ConfigurationError when they fail or take far too long."""
    path = job.directory / "job.json"
    job.write(path)
    attempt = Attempt.of(1, job.points[0])
    deadline = time.monotonic() + job.seconds + PATIENCE_SECONDS

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            collected.facts["started_at"] = time.monotonic()
        collected.hear(event)
        if event["event"] == "measured":
            stage = job.points[event["point"]]
            say(f"{stage.context_tokens:,} tokens x {stage.batch_plan.micro_batch}")

    def watch() -> None:
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"{job.what} was not measured within {job.seconds + PATIENCE_SECONDS:.0f} s.",
                "calibrate a smaller model or shorter --contexts; `transfer` estimates the larger one.",
            )

    try:
        run_streaming(
            trainer_command(attempt, path, module=MEASURING_MODULE),
            on_line=lambda line: None,  # the last ones are in what is raised
            on_event=on_event,
            environment=trainer_environment(attempt) | dict(environment or {}),
            watch=watch,
        )
    except ChildFailed as error:
        reason = error.last_lines[-1] if error.last_lines else error.problem
        raise ConfigurationError(
            f"measuring {job.what} failed: {reason}",
            "read the line; if memory ran out, lower micro_batch or give shorter --contexts.",
        ) from error
