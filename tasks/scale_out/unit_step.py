"""A round of units as one datatrove pipeline step."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from datatrove.pipeline.base import PipelineStep

from tasks.work_units import UnitOutput, guarded, save_outcome

_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Coordinator:
    """The process that waits for the units."""

    host: str
    process: int
    started: float

    @classmethod
    def this_process(cls) -> Coordinator:
        """The calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def is_gone(self) -> bool:
        """Whether it ended; never true when seen from another machine."""
        if self.host != socket.gethostname():
            return False
        try:
            return psutil.Process(self.process).create_time() != self.started
        except psutil.NoSuchProcess:
            return True


class UnitStep(PipelineStep):
    """Runs every `world_size`-th unit, from `rank` on, and leaves each outcome as a file in `outcomes`.

    A unit that fails with a PipelineError leaves that error; the coordinator raises it. Units write
    their files atomically and deterministically, so one that runs twice does no harm.
    """

    name = "units of a data stage"
    type = "SAM 2.0"

    def __init__(
        self, units: Mapping[str, Any], work: Callable[[Any], UnitOutput], outcomes: Path, coordinator: Coordinator
    ) -> None:
        super().__init__()
        self.units = dict(units)
        self.work = work
        self.outcomes = outcomes
        self.coordinator = coordinator

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Run this rank's units; passes `data` on."""
        sign = alive_path(self.outcomes, rank)
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.write_text("0")  # before any unit can end this process
        ended = threading.Event()
        threading.Thread(target=self._show_life, args=(sign, ended), name="sign of life", daemon=True).start()
        for number, (name, unit) in enumerate(self.units.items()):
            if number % world_size == rank:
                with self.track_time("unit"):
                    save_outcome(outcome_path(self.outcomes, name), guarded(self.work, unit))
                self.stat_update("units")
        ended.set()
        yield from data or ()

    def _show_life(self, sign: Path, ended: threading.Event) -> None:
        """Count up in a file: datatrove's pools wait for ever for a worker that was killed.

        Ends the process when nobody waits for it: a killed coordinator starts again with workers of
        its own, and one that gave up has removed the directory.
        """
        count = 0
        while not ended.is_set():
            count += 1
            try:
                sign.write_text(str(count))
            except FileNotFoundError:
                os._exit(1)
            if self.coordinator.is_gone():
                os._exit(1)
            ended.wait(_LOOK_SECONDS)
        sign.unlink(missing_ok=True)


def alive_path(outcomes: Path, rank: int) -> Path:
    """Where the task of a rank counts up while it runs; absent before and afterwards."""
    return outcomes.with_name("alive") / f"{rank}"


def outcome_path(outcomes: Path, name: str) -> Path:
    """Where the outcome of a unit is left."""
    return outcomes / f"{name}.json"
