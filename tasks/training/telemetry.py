"""What each update took: tokens a second, model FLOPs utilisation, memory, waiting, and when the stage will be done.

Model FLOPs utilisation (MFU) after Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B): the FLOPs that the
model's passes need, recomputed activations not counted, over what all ranks could do in that time.
"""

from __future__ import annotations

import os
import resource
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from model.sizing import training_flops_per_token
from tasks.training.config import TrainingStageConfig
from tasks.training.engine import Placement
from tasks.training.peak_flops import peak_flops

_RATE_WINDOW_STEPS = 20
_STATM = Path("/proc/self/statm")
_STATM_BYTES = 128


class Stopwatch:
    """Adds up the seconds spent in `with stopwatch:` blocks until they are taken."""

    __slots__ = ("_entered", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._seconds += time.perf_counter() - self._entered

    def add(self, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._seconds += seconds

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True)
class Memory:
    """Bytes in use now and at most so far: of the device the passes run on, and of this process on the host."""

    device: int
    device_peak: int
    host: int
    host_peak: int


class MemoryMeter:
    """Reads memory in a few microseconds. On a CPU the device is the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._statm = os.open(_STATM, os.O_RDONLY) if _STATM.exists() else None

    def read(self) -> Memory:
        host_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        host = host_peak if self._statm is None else int(os.pread(self._statm, _STATM_BYTES, 0).split()[1]) * self._page
        if self._device.type != "cuda":
            return Memory(host, host_peak, host, host_peak)
        # The flat form of these statistics costs ten times as much.
        allocated = torch.cuda.memory_stats_as_nested_dict(self._device)["allocated_bytes"]["all"]
        return Memory(allocated["current"], allocated["peak"], host, host_peak)

    def close(self) -> None:
        """Free the file."""
        if self._statm is not None:
            os.close(self._statm)


class Meter:
    """Times the updates of one stage on one rank.

    The trainer wraps what it waits for: `with meter.data_wait:` around taking a batch, `with meter.checkpoint_stall:`
    around saving. Every rank makes its meter at the same point, because their peaks are added up; only the first
    needs to call the rest.
    """

    def __init__(self, config: TrainingStageConfig, placement: Placement) -> None:
        own = peak_flops(placement.device, config.precision, config.peak_teraflops)
        self.peak_flops = placement.sum(own.per_second)[0]
        self.peak_origin = own.origin
        self.flops_per_token = training_flops_per_token(config.stage_model, config.context_tokens).total
        self.data_wait = Stopwatch()
        self.checkpoint_stall = Stopwatch()
        self._config = config
        self._memory = MemoryMeter(placement.device)
        self._recent: deque[float] = deque(maxlen=_RATE_WINDOW_STEPS)
        self._updates = 0
        self._training_seconds = 0.0
        self._started = self._last = time.perf_counter()

    def started(self) -> None:
        """The first update begins: what came before (loading, restoring) is not part of its time."""
        self._started = self._last = time.perf_counter()
        self.data_wait.take()
        self.checkpoint_stall.take()

    def step(self, step: int, seconds: float, *, micro_batch: int, incidents: int = 0) -> dict[str, float]:
        """Figures of one finished update.

        step: updates done. seconds: of the update itself, waiting for data included, validation and saving not.
        micro_batch: rows run at once. incidents: of this stage so far.
        """
        now = time.perf_counter()
        wall, self._last = now - self._last, now
        self._note(seconds)
        mean = sum(self._recent) / len(self._recent)
        rate = self._config.batch_tokens / mean
        waited = self.data_wait.take()
        memory = self._memory.read()
        return {
            "step": step,
            "seconds": round(seconds, 6),
            "wall_seconds": round(wall, 6),
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / self.peak_flops, 6),
            "peak_teraflops": round(self.peak_flops / 1e12, 6),
            "data_wait_seconds": round(waited, 6),
            "data_wait_share": round(min(1.0, waited / seconds), 4) if seconds > 0 else 0.0,
            "checkpoint_stall_seconds": round(self.checkpoint_stall.take(), 6),
            "memory_gb": round(memory.device / 1e9, 3),
            "peak_gb": round(memory.device_peak / 1e9, 3),
            "host_gb": round(memory.host / 1e9, 3),
            "host_peak_gb": round(memory.host_peak / 1e9, 3),
            "micro_batch": micro_batch,
            "incidents": incidents,
        }

    def remaining_seconds(self, step: int) -> float:
        """Until the stage is done, after update `step`, validation and checkpoints at their usual rate included."""
        if not self._updates:
            return float("nan")
        between = max(0.0, self._last - self._started - self._training_seconds) / self._updates
        mean = sum(self._recent) / len(self._recent)
        return (self._config.steps - step) * (mean + between)

    def describe(self) -> str:
        """One line for the log: what MFU is relative to."""
        return (
            f"MFU is relative to {self.peak_flops / 1e12:,.3g} TFLOP/s of all ranks ({self.peak_origin}); "
            f"a token needs {self.flops_per_token / 1e6:,.4g} MFLOP"
        )

    def close(self) -> None:
        """Free what the meter holds open."""
        self._memory.close()

    def _note(self, seconds: float) -> None:
        self._updates += 1
        self._training_seconds += seconds
        if self._updates == 2:
            self._recent.clear()  # a process's first update loads code and memory, and says little of the rest
        self._recent.append(seconds)
