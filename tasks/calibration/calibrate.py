"""Calibrates: starts the trainer's ranks on random rows, collects what they measured, and fits it."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from infra.errors import ConfigurationError
from infra.processes import ChildFailed, run_streaming
from tasks.calibration.calibration import Calibration
from tasks.calibration.hardware import Hardware, this_hardware
from tasks.calibration.job import CalibrationJob, write_random_documents
from tasks.calibration.measurement import Measurement, MemoryMeasurement
from tasks.calibration.peak_memory import RETURNING_ENVIRONMENT, predicted_memory
from tasks.calibration.points import points_of, variants_of
from tasks.calibration.setup import Setup, Variant
from tasks.calibration.step_time import StepTime, fit_step_time
from tasks.training import TrainingStageConfig
from tasks.training.launch import Attempt, trainer_command, trainer_environment

MEASURING_MODULE = "tasks.calibration.measuring"
#: Of the whole time, what reading peaks on a CPU takes, in a process of its own.
_MEMORY_SHARE = 0.2
#: A start and a first update are not counted in what is left; beyond this the model is too slow for the machine.
_PATIENCE_SECONDS = 120.0

#: Called with the share of the time that is over, and what is being done.
Report = Callable[[float, str], None]


@dataclass
class _Collected:
    """What one variant's processes told."""

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
        """Medians of the points that were measured."""
        return [measurement_of(self.points[number], pairs) for number, pairs in sorted(self.updates.items())]

    def memory(self, kind: str) -> list[MemoryMeasurement]:
        """Peaks beside their prediction, of points for which there is one."""
        found = []
        for number, measured in sorted(self.peaks.items()):
            stage = self.points[number]
            predicted = predicted_memory(stage, kind)
            if predicted is not None:
                found.append(
                    MemoryMeasurement(
                        variant=Variant.of(stage),
                        context_tokens=stage.context_tokens,
                        micro_batch=stage.batch_plan.micro_batch,
                        measured_bytes=measured,
                        predicted_bytes=predicted,
                    )
                )
        return found


def calibrate(
    stages: Sequence[TrainingStageConfig],
    *,
    seconds: float = 90.0,
    contexts: Sequence[int] = (),
    with_memory: bool = True,
    report: Report | None = None,
) -> Calibration:
    """Measure a curriculum's model on this machine with its own settings, in about `seconds`.

    contexts: lengths of rows to measure; left out: the curriculum's. Raises ConfigurationError for what the machine
    cannot train, and when fewer than three configurations could be measured in the time.
    """
    started = time.monotonic()
    report = report or (lambda share, what: None)
    hardware, variants = this_hardware(), variants_of(stages)
    plans = {variant: points_of(own, contexts) for variant, own in variants.items()}
    for points in plans.values():
        _check(points, hardware)
    collected = []
    for number, (variant, points) in enumerate(plans.items()):
        until = started + seconds * (number + 1) / len(plans)
        what = "" if len(plans) == 1 else f"{variant.describe()}: "
        collected.append(_measure(points, hardware, until, with_memory, _within(report, started, seconds, what)))
    return _calibration(stages[0], hardware, collected, time.monotonic() - started)


def measurement_of(stage: TrainingStageConfig, pairs: Sequence[tuple[float, float]]) -> Measurement:
    """Medians over updates of (seconds a micro-batch, seconds beside them)."""
    passes, beside = ([pair[part] for pair in pairs] for part in (0, 1))
    median = statistics.median(passes)
    low, _, high = statistics.quantiles(passes, n=4, method="inclusive") if len(passes) > 1 else (median,) * 3
    return Measurement(
        variant=Variant.of(stage),
        context_tokens=stage.context_tokens,
        micro_batch=stage.batch_plan.micro_batch,
        updates=len(pairs),
        micro_batch_seconds=median,
        update_seconds=max(0.0, statistics.median(beside)),
        # Of the median, not of one update: it moves by the root of their number less.
        spread=(high - low) / 2 / median / math.sqrt(len(passes)),
    )


def _measure(
    points: Sequence[TrainingStageConfig], hardware: Hardware, until: float, with_memory: bool, report: Report
) -> _Collected:
    """Speed, and on a CPU memory, of one variant's points until the clock says `until`."""
    collected = _Collected(points)
    own_memory = with_memory and hardware.kind == "cpu" and predicted_memory(points[0], "cpu") is not None
    with tempfile.TemporaryDirectory(prefix="sam2-calibration-") as name:
        directory = Path(name)
        shard = directory / "random-00000"
        write_random_documents(shard, tuple(points))
        left = until - time.monotonic()
        for_speed = left * (1 - _MEMORY_SHARE) if own_memory else left
        job = CalibrationJob(what="speed", points=tuple(points), seconds=for_speed, shard=shard, directory=directory)
        began = time.monotonic()
        _run(job, collected, report, left)
        collected.facts["startup_seconds"] = collected.facts.pop("started_at", time.monotonic()) - began
        if own_memory:
            measured = tuple(points[index] for index in sorted(collected.updates))
            report(1, "peak memory")
            peaks = _Collected(measured)
            _run(job.model_copy(update={"what": "memory", "points": measured}), peaks, report, left)
            collected.peaks = {number: peaks.peaks[index] for index, number in enumerate(sorted(collected.updates))}
    return collected


def _run(job: CalibrationJob, collected: _Collected, report: Report, seconds: float) -> None:
    path = job.directory / f"{job.what}.json"
    job.write(path)
    config = job.points[0]
    attempt = Attempt.of(1, config)
    last_lines: list[str] = []
    deadline = time.monotonic() + seconds + _PATIENCE_SECONDS

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            collected.facts["started_at"] = time.monotonic()
        collected.hear(event)
        if event["event"] == "measured":
            stage = job.points[event["point"]]
            report(0, f"{stage.context_tokens:,} tokens x {stage.batch_plan.micro_batch}")

    def watch() -> None:
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"{job.what} was not measured within {seconds + _PATIENCE_SECONDS:.0f} s.",
                "calibrate a smaller model or shorter --contexts; `transfer` estimates the larger one.",
            )

    environment = trainer_environment(attempt) | (RETURNING_ENVIRONMENT if job.what == "memory" else {})
    try:
        run_streaming(
            trainer_command(attempt, path, module=MEASURING_MODULE),
            on_line=last_lines.append,
            on_event=on_event,
            environment=environment,
            watch=watch,
        )
    except ChildFailed as error:
        raise ConfigurationError(
            f"measuring {job.what} failed: {error.last_lines[-1] if error.last_lines else error.problem}",
            "read the line; if memory ran out, lower micro_batch or --contexts.",
        ) from error


def _calibration(
    stage: TrainingStageConfig, hardware: Hardware, collected: Sequence[_Collected], seconds: float
) -> Calibration:
    facts = collected[0].facts
    step_times: list[StepTime] = [fit_step_time(stage.model, one.measurements()) for one in collected]
    return Calibration(
        measured_at=datetime.now(UTC),
        hardware=hardware,
        setup=Setup.of(stage),
        model=stage.model,
        torch_version=torch.__version__,
        peak_flops=facts["peak_flops"],
        peak_origin=facts["peak_origin"],
        measurements=tuple(point for one in collected for point in one.measurements()),
        memory=tuple(point for one in collected for point in one.memory(hardware.kind)),
        step_times=tuple(step_times),
        startup_seconds=facts["startup_seconds"],
        evaluation_share=facts["evaluation_share"],
        checkpoint_stall_seconds=facts["checkpoint_stall_seconds"],
        process_peak_bytes=max(one.facts["peak_bytes"] for one in collected),
        measuring_seconds=seconds,
    )


def _check(points: Sequence[TrainingStageConfig], hardware: Hardware) -> None:
    """Raise ConfigurationError for ranks or memory that this machine has not, before a process is started."""
    stage = points[-1]
    if stage.nodes > 1:
        raise ConfigurationError(
            f"a calibration measures one machine, not {stage.nodes}.", "set training.nodes=1 and the ranks of one."
        )
    if hardware.kind == "cuda" and stage.ranks > hardware.devices:
        raise ConfigurationError(
            f"{stage.ranks} ranks need as many GPUs; this machine has {hardware.devices}.",
            f"calibrate with --set training.ranks={hardware.devices}.",
        )
    for one in points:
        needed = predicted_memory(one, hardware.kind)
        share = 1 if hardware.kind == "cuda" else one.ranks
        if needed is not None and needed * share > hardware.memory_bytes:
            raise ConfigurationError(
                f"training on {one.batch_plan.micro_batch} rows of {one.context_tokens:,} tokens needs "
                f"{needed * share / 1e9:.1f} GB; this machine has {hardware.memory_bytes / 1e9:.1f} GB.",
                "calibrate shorter --contexts, a smaller micro_batch or a smaller model.",
            )


def _within(report: Report, started: float, seconds: float, what: str) -> Report:
    """A report of the time that is over, of what is said by one variant."""

    def told(_: float, text: str) -> None:
        report(min(1.0, (time.monotonic() - started) / seconds), what + text)

    return told
