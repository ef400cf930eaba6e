"""Measures speed or memory as one of the trainer's ranks: `python -m tasks.calibration.measuring JOB.json`.

It is the trainer that is timed, update by update: its data loader, its engine, its exchange and its optimiser. The
configurations share one engine and take turns, so that other load on the machine meets all alike.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from tasks.calibration.job import CalibrationJob
from tasks.calibration.peak_memory import tell_peaks
from tasks.calibration.step_time import FEWEST_POINTS
from tasks.training.data_order import Batch
from tasks.training.engine import Placement, TrainingEngine, import_deepspeed, start_distributed
from tasks.training.job import emit
from tasks.training.telemetry import MemoryMeter, Stopwatch
from tasks.training.trainer import Trainer

#: Updates of each configuration that count at the least, whatever time is left.
FEWEST_UPDATES = 2
#: One configuration's turn: several updates where they are short.
_TURN_SECONDS = 0.5
_MOST_UPDATES_A_TURN = 8


class TimedEngine(TrainingEngine):
    """The training engine, with the time of its passes added up in `passes`."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.passes = Stopwatch()

    def forward_backward(self, batch: Batch, weight: float) -> Tensor:
        """As the engine's."""
        with self._timed():
            return super().forward_backward(batch, weight)

    def pass_over(self) -> None:
        """As the engine's."""
        with self._timed():
            super().pass_over()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        # A GPU works on after the call returns.
        _synchronize()
        with self.passes:
            yield
            _synchronize()


class Point:
    """One configuration's trainer and how far it is."""

    def __init__(self, number: int, job: CalibrationJob, placement: Placement, engine: TimedEngine) -> None:
        self.number, self.counted = number, 0
        self.trainer = Trainer(job.training_job(number), placement, engine)
        self._engine, self._placement = engine, placement
        self._step = 0
        self._accumulation = job.points[number].batch_plan.accumulation

    @property
    def tokens(self) -> int:
        """Of one update."""
        return self.trainer.config.batch_tokens

    def update(self, *, counts: bool) -> float:
        """Make one update and tell its times; return its seconds as the first rank saw them."""
        self._engine.passes.take()
        started = time.perf_counter()
        self.trainer.advance(self._step)
        _synchronize()
        seconds = time.perf_counter() - started
        passes = self._engine.passes.take()
        self._step += 1
        self.counted += counts
        seconds, passes = self._placement.sum(*(value * self._placement.is_first for value in (seconds, passes)))
        if counts and self._placement.is_first:
            fields = {"micro_batch_seconds": passes / self._accumulation, "update_seconds": seconds - passes}
            emit("measured", {"point": self.number, **fields})
        return seconds

    def evaluation_share(self) -> float:
        """Seconds of a micro-batch without gradients over those of one with them, once each after a warm-up."""
        batch = self.trainer.sampler.batch(0, self.trainer.plan.micro_batch)
        batch = batch.slice(self.trainer.plan.sequence_rank(self._placement.rank), self.trainer.plan.sequence_parallel)
        self._engine.evaluate(batch)
        seconds = []
        for _ in range(3):
            _synchronize()
            started = time.perf_counter()
            self._engine.evaluate(batch)
            _synchronize()
            seconds.append(time.perf_counter() - started)
        self.update(counts=False)
        self._engine.passes.take()
        self.trainer.advance(self._step)
        self._step += 1
        return sorted(seconds)[1] / (self._engine.passes.take() / self._accumulation)

    def checkpoint_stall(self) -> float:
        """Seconds for which training stands still while a checkpoint is begun."""
        started = time.perf_counter()
        state = self._engine.state
        self.trainer.checkpoints.save(
            self._step,
            state.fragments(self._placement.rank, self._placement.ranks),
            {"optimizer_step": state.optimizer_step},
        )
        stall = time.perf_counter() - started
        self.trainer.checkpoints.wait()
        return stall


class Speed:
    """The turns of one job's points until its time is up. Every rank decides alike."""

    def __init__(self, job: CalibrationJob, placement: Placement, deepspeed: ModuleType) -> None:
        self._job, self._placement = job, placement
        self._started = time.perf_counter()
        engine = TimedEngine(job.points[0], placement, deepspeed)
        self._points = [Point(number, job, placement, engine) for number in range(len(job.points))]
        self._seconds: dict[int, float] = {}

    def run(self) -> None:
        """Warm up each point, then measure them in turn."""
        chosen = self._warm_up()
        if not chosen:
            return
        self._overheads(chosen[0])
        while True:
            for point in chosen:
                seconds = self._seconds[point.number]
                if point.counted >= FEWEST_UPDATES and self._left() < seconds:
                    return
                for _ in range(max(1, min(_MOST_UPDATES_A_TURN, int(_TURN_SECONDS / seconds)))):
                    self._seconds[point.number] = min(point.update(counts=True), self._seconds[point.number])

    def _warm_up(self) -> list[Point]:
        """One update of each point for which there is time, the small ones first; the first one tells of the start."""
        chosen: list[Point] = []
        slowest_token = 0.0
        for point in self._points:
            expected = slowest_token * point.tokens * (1 + FEWEST_UPDATES)
            if len(chosen) >= FEWEST_POINTS and expected > self._left():
                if self._placement.is_first:
                    emit("skipped", {"point": point.number, "seconds": expected})
                continue
            _reset_peak()
            seconds = point.update(counts=False)
            if not chosen:
                self._tell_start()
                seconds = point.update(counts=False)  # a process's first update loads code
            self._tell_peak(point)
            self._seconds[point.number] = seconds
            slowest_token = seconds / point.tokens
            chosen.append(point)
        return chosen

    def _overheads(self, point: Point) -> None:
        share = point.evaluation_share()
        stall = point.checkpoint_stall()
        if self._placement.is_first:
            emit("overheads", {"evaluation_share": share, "checkpoint_stall_seconds": stall})

    def _left(self) -> float:
        """Seconds left, by the first rank's clock."""
        own = self._job.seconds - (time.perf_counter() - self._started)
        return self._placement.sum(own * self._placement.is_first)[0]

    def _tell_start(self) -> None:
        meter = self._points[0].trainer.meter
        if self._placement.is_first:
            emit("started", {"peak_flops": meter.peak_flops, "peak_origin": meter.peak_origin})

    def _tell_peak(self, point: Point) -> None:
        """On a GPU the peak is the tensors' own, told by its allocator; on a CPU it takes a process of its own."""
        if torch.cuda.is_available() and self._placement.is_first:
            emit("peak", {"point": point.number, "measured_bytes": torch.cuda.max_memory_allocated()})

    def close(self) -> None:
        """End the trainers' threads; tell what the process took at most."""
        if self._placement.is_first:
            meter = MemoryMeter(self._placement.device)
            emit("process", {"peak_bytes": meter.read().host_peak})
            meter.close()
        for point in self._points:
            point.trainer.close()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def main(job_path: Path) -> int:
    """Measure the job; return the exit code."""
    job = CalibrationJob.read(job_path)
    deepspeed = import_deepspeed()
    placement = start_distributed(job.points[0], deepspeed)
    if job.what == "memory":
        tell_peaks(job.points, placement, deepspeed)
    else:
        speed = Speed(job, placement, deepspeed)
        try:
            speed.run()
        finally:
            speed.close()
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
