"""Calibrates a curriculum on this machine: what to measure, in which time, and what it comes to."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import psutil
import torch

from infra.errors import ConfigurationError
from tasks.calibration.calibration import Calibration
from tasks.calibration.collecting import Collected, measure_memory, measure_speed
from tasks.calibration.hardware import Hardware, this_hardware
from tasks.calibration.peak_memory import predicted_memory
from tasks.calibration.points import points_of, spread_out, variants_of
from tasks.calibration.setup import Setup
from tasks.calibration.step_time import fit_step_time
from tasks.training import TrainingStageConfig

#: Of the whole time, what reading peaks on a CPU takes, in a process of its own; of so many points.
_MEMORY_SHARE = 0.25
_MEMORY_POINTS = 3

#: Called with the share of the time that is over, and what is being done.
Report = Callable[[float, str], None]


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
    clock = _Clock(seconds, report or (lambda share, what: None))
    hardware = this_hardware()
    plans = {variant: points_of(own, contexts) for variant, own in variants_of(stages).items()}
    for points in plans.values():
        _check(points, hardware)
    collected = []
    for number, (variant, points) in enumerate(plans.items()):
        about = "" if len(plans) == 1 else f"{variant.describe()}: "
        left = seconds * (number + 1) / len(plans) - clock.passed()
        collected.append(_measure(points, hardware, left, with_memory, clock.saying(about)))
    return _calibration(stages[0], hardware, collected, clock)


class _Clock:
    """The time since the start, and how much of the processor others used in it."""

    def __init__(self, seconds: float, report: Report) -> None:
        self._seconds, self._report = seconds, report
        self._started, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def passed(self) -> float:
        return time.monotonic() - self._started

    def saying(self, about: str) -> Callable[[str], None]:
        """A way to say how far it is, beginning with `about`."""
        return lambda text: self._report(min(1.0, self.passed() / self._seconds), about + text)

    def other_load(self) -> float:
        """Share of all cores that other programs kept busy."""
        others = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        cores = psutil.cpu_count() or 1
        return min(1.0, max(0.0, others / (cores * self.passed())))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _own_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _measure(
    points: Sequence[TrainingStageConfig],
    hardware: Hardware,
    seconds: float,
    with_memory: bool,
    say: Callable[[str], None],
) -> Collected:
    """Speed, and on a CPU memory, of one variant's points."""
    own_memory = with_memory and hardware.kind == "cpu" and predicted_memory(points[0], "cpu") is not None
    collected = measure_speed(points, seconds * (1 - _MEMORY_SHARE) if own_memory else seconds, say)
    if own_memory and collected.updates:
        say("peak memory")
        chosen = spread_out(sorted(collected.updates), _MEMORY_POINTS)
        peaks = measure_memory([points[number] for number in chosen]).peaks
        collected.peaks = {chosen[index]: peak for index, peak in peaks.items()}
    return collected


def _calibration(
    stage: TrainingStageConfig, hardware: Hardware, collected: Sequence[Collected], clock: _Clock
) -> Calibration:
    fitted = tuple(fit_step_time(stage.model, one.measurements()) for one in collected)
    facts = collected[0].facts
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
        step_times=fitted,
        startup_seconds=facts["startup_seconds"],
        evaluation_share=facts["evaluation_share"],
        checkpoint_stall_seconds=facts["checkpoint_stall_seconds"],
        process_peak_bytes=max(one.facts["peak_bytes"] for one in collected),
        other_load=clock.other_load(),
        measuring_seconds=clock.passed(),
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
        ranks_here = 1 if hardware.kind == "cuda" else one.ranks
        if needed is not None and needed * ranks_here > hardware.memory_bytes:
            raise ConfigurationError(
                f"training on {one.batch_plan.micro_batch} rows of {one.context_tokens:,} tokens needs "
                f"{needed * ranks_here / 1e9:.1f} GB; this machine has {hardware.memory_bytes / 1e9:.1f} GB.",
                "calibrate shorter --contexts, a smaller micro_batch or a smaller model.",
            )
