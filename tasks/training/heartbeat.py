"""What each rank is doing, in a small file of its own, so that a hung step can be told from a slow one and named.

A beat costs one `pwrite` of half a kilobyte (a few microseconds), so a rank beats at every phase of every update. Times
are of the machine's monotonic clock, which all its processes share and which stands still while a laptop sleeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

#: In the order in which an update passes them. In `exchange` a rank waits for the others; the last checkpoint is
#: waited for, others are written beside training.
Phase = Literal[
    "starting",
    "restoring",
    "data",
    "forward and backward",
    "exchange",
    "update",
    "validation",
    "checkpoint",
    "last checkpoint",
    "export",
]
#: Phases that may take as long as starting does: they are not part of an update.
LONG_PHASES: frozenset[str] = frozenset({"starting", "restoring", "validation", "last checkpoint", "export"})
_ORDER: dict[str, int] = {phase: place for place, phase in enumerate(get_args(Phase))}
_FILE_BYTES = 512
_DETAIL_LETTERS = 80


@dataclass(frozen=True)
class Beat:
    """The last sign of a rank. step: updates done. since: monotonic seconds at which the phase began."""

    rank: int
    pid: int
    step: int
    phase: Phase
    since: float
    detail: str = ""

    @property
    def progress(self) -> tuple[int, int]:
        """How far the rank is; in a group that waits, the one least far holds up the others."""
        return self.step, _ORDER[self.phase]

    def seconds(self) -> float:
        """How long the phase has lasted."""
        return time.monotonic() - self.since

    def describe(self) -> str:
        """For people: rank, phase, update, duration."""
        what = f"{self.phase} ({self.detail})" if self.detail else self.phase
        return f"rank {self.rank} in '{what}' of update {self.step + 1} for {self.seconds():.0f} s"


class Heartbeat:
    """Written by one rank, from its training thread."""

    def __init__(self, directory: Path, rank: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._pid = os.getpid()
        self._file = os.open(_path(directory, rank), os.O_WRONLY | os.O_CREAT, 0o644)
        self.enter("starting", 0)

    def enter(self, phase: Phase, step: int, detail: str = "") -> None:
        """A phase begins, after `step` finished updates."""
        self._write(Beat(self._rank, self._pid, step, phase, time.monotonic(), detail[:_DETAIL_LETTERS]))

    def detail(self, text: str) -> None:
        """What the phase is at; it goes on lasting."""
        self._write(replace(self._beat, detail=text[:_DETAIL_LETTERS]))

    def _write(self, beat: Beat) -> None:
        self._beat = beat
        with contextlib.suppress(OSError):  # a full disk must not end training; a beat that is missing says nothing
            os.pwrite(self._file, json.dumps(asdict(beat)).encode().ljust(_FILE_BYTES)[:_FILE_BYTES], 0)

    def close(self) -> None:
        """Free the file; what it says last stays."""
        os.close(self._file)


def read_beats(directory: Path, ranks: range) -> list[Beat]:
    """The last beats of these ranks, by rank; one that is being written is left out.

    Only ranks of this machine may be asked for: another machine has another clock.
    """
    beats = []
    for rank in ranks:
        try:
            beats.append(Beat(**json.loads(_path(directory, rank).read_bytes())))
        except (OSError, ValueError, TypeError):
            continue
    return beats


def clear_beats(directory: Path, ranks: range) -> None:
    """Forget these ranks' beats of an earlier attempt."""
    for rank in ranks:
        _path(directory, rank).unlink(missing_ok=True)


def _path(directory: Path, rank: int) -> Path:
    return directory / f"rank-{rank:05d}.json"
