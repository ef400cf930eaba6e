"""Profiles of chosen updates, and of the update after a slow one: a Chrome trace and a table of the top operators.

Every profile is three files in the artifact's `profiles/`: `<name>.trace.json.gz` (open it in chrome://tracing or
ui.perfetto.dev), `<name>.txt` for people, `<name>.operators.json` for the report. Only the first rank is profiled.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from infra.storage.local import atomic_file
from tasks.training.config import TrainingStageConfig
from tasks.training.engine import Placement
from tasks.training.profile_steps import parse_steps

PROFILE_DIRECTORY = "profiles"
OPERATORS_SUFFIX = ".operators.json"
TRACE_SUFFIX = ".trace.json.gz"

_TOP_OPERATORS = 30
_WINDOW_STEPS = 50
_FEWEST_STEPS = 10
#: Standard deviation of a normal distribution, in units of its median absolute deviation.
_NORMAL_DEVIATION = 1.4826
_DEVIATIONS = 6.0
_SLOW_NAME = re.compile(r"update-\d+-after-slow\.operators\.json")


@dataclass(frozen=True)
class SlowStep:
    """An update that took much longer than usual.

    usual_seconds: the median of the last `window` updates. is_profiled: whether the next update will be.
    """

    step: int
    seconds: float
    usual_seconds: float
    window: int
    is_profiled: bool = False

    def describe(self) -> str:
        """For people: which update, how long, how long usually."""
        return (
            f"update {self.step} took {self.seconds:.3g} s, usually {self.usual_seconds:.3g} s "
            f"(median of the last {self.window})"
        )

    @property
    def action(self) -> str:
        """For people: what follows."""
        return f"update {self.step + 1} is profiled" if self.is_profiled else "the stage has its profiles already"


class SlowStepDetector:
    """Tells when an update stands out from the last ones.

    Slow is an update above `factor` times the median, above the median by `minimum_seconds`, and above it by six
    robust standard deviations (from the median absolute deviation), so that a stage of uneven updates is not told
    of every one. A lasting slow-down becomes the usual within half a window.
    """

    def __init__(self, factor: float, minimum_seconds: float) -> None:
        self._factor = factor
        self._minimum_seconds = minimum_seconds
        self._recent: deque[float] = deque(maxlen=_WINDOW_STEPS)

    def observe(self, step: int, seconds: float) -> SlowStep | None:
        """Take in an update's seconds; the finding if it was slow. Fewer than ten updates are no measure."""
        found = self._judge(step, seconds) if len(self._recent) >= _FEWEST_STEPS else None
        self._recent.append(seconds)
        return found

    def _judge(self, step: int, seconds: float) -> SlowStep | None:
        if seconds <= self._minimum_seconds:  # nearly every update ends here, for the price of a comparison
            return None
        usual = statistics.median(self._recent)
        spread = _NORMAL_DEVIATION * statistics.median(abs(value - usual) for value in self._recent)
        limit = max(self._factor * usual, usual + self._minimum_seconds, usual + _DEVIATIONS * spread)
        return SlowStep(step, seconds, usual, len(self._recent)) if seconds > limit else None


@dataclass
class _Recording:
    """A profile that is being taken. last: the update it ends after."""

    profiler: torch.profiler.profile
    first: int
    last: int
    reason: str
    is_slow: bool


class StepProfiler:
    """Profiles updates of one stage: `with profiler.around(step):` around each, then `profiler.observe(step, seconds)`.

    Updates are counted from 1, as in the history. On ranks other than the first, and between profiles, `around`
    is a dictionary look-up. Profiles are written by a thread while training goes on: a large one takes minutes,
    in which all ranks would wait for the first.
    """

    def __init__(
        self,
        config: TrainingStageConfig,
        placement: Placement,
        directory: Path,
        on_slow: Callable[[SlowStep], None] = lambda slow: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """directory: the artifact's. on_slow: told of every slow update. say: told of every profile written."""
        self._directory = directory / PROFILE_DIRECTORY
        self._device = placement.device
        self._active = placement.is_first
        self._on_slow, self._say = on_slow, say
        self._detector = SlowStepDetector(config.slow_step_factor, config.slow_step_seconds)
        self._slow_left = config.slow_step_profiles - len(self._slow_profiles())
        # update -> (last update of its profile, reason, whether asked for by a slow update)
        self._wanted: dict[int, tuple[int, str, bool]] = {}
        self._recording: _Recording | None = None
        self._profiled_step = 0
        self._writers: list[Thread] = []
        self._written: SimpleQueue[str] = SimpleQueue()
        self._idle = nullcontext()
        if self._active:
            self._want_chosen(config)

    def around(self, step: int) -> AbstractContextManager[None]:
        """What update `step` runs in."""
        if step in self._wanted or self._recording is not None:
            return self._profiled(step)
        return self._idle

    def observe(self, step: int, seconds: float) -> SlowStep | None:
        """Take in how long an update took; the next one is profiled if this one was slow."""
        if not self._active:
            return None
        self._tell_written()
        if step == self._profiled_step or self._writers:  # slow by what is done to it
            return None
        slow = self._detector.observe(step, seconds)
        if slow is None:
            return None
        if self._slow_left > 0 and step + 1 not in self._wanted:
            self._slow_left -= 1
            self._wanted[step + 1] = step + 1, slow.describe(), True
        slow = replace(slow, is_profiled=step + 1 in self._wanted)
        self._on_slow(slow)
        return slow

    def close(self) -> None:
        """Write what is being recorded, if anything (the stage ends or was interrupted), and wait for what is."""
        if self._recording is not None:
            self._finish(self._profiled_step)
        for writer in self._writers:
            writer.join()
        self._tell_written()

    def _want_chosen(self, config: TrainingStageConfig) -> None:
        for steps in parse_steps(config.profile_steps or ""):
            inside = range(steps.start, min(steps.stop, config.steps + 1))
            if not inside:
                self._say(f"profile_steps: update {steps.start} is beyond the stage's {config.steps}")
            for step in inside:  # a resumed stage may begin in the middle
                self._wanted[step] = inside[-1], "chosen by profile_steps", False

    @contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        if self._recording is None:
            self._start(step)
        self._profiled_step = step
        try:
            yield
        except BaseException:
            self._finish(step)
            raise
        if self._recording is not None and step >= self._recording.last:
            self._finish(step)

    def _start(self, step: int) -> None:
        last, reason, is_slow = self._wanted[step]
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        profiler = torch.profiler.profile(
            activities=activities, record_shapes=True, profile_memory=True, with_flops=True
        )
        profiler.start()
        self._recording = _Recording(profiler, step, last, reason, is_slow)

    def _finish(self, step: int) -> None:
        recording, self._recording = self._recording, None
        assert recording is not None
        recording.profiler.stop()
        for done in range(recording.first, recording.last + 1):
            self._wanted.pop(done, None)  # not again after a roll-back
        writer = Thread(target=self._write, args=(recording, step), name="profile writer")
        writer.start()
        self._writers.append(writer)

    def _write(self, recording: _Recording, step: int) -> None:
        title = _title(recording, step)
        try:
            written = write_profile(
                recording.profiler, self._directory, _name(recording, step), title,
                steps=step - recording.first + 1, on_cuda=self._device.type == "cuda",
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - told by the caller's thread, and no reason to stop training
            self._written.put(f"{title}, but the profile could not be written: {error}")
        else:
            self._written.put(f"{title}; {PROFILE_DIRECTORY}/{written.name}")

    def _tell_written(self) -> None:
        """Say what writers have finished, from the caller's thread."""
        if self._writers:
            self._writers = [writer for writer in self._writers if writer.is_alive()]
            while not self._written.empty():
                self._say(self._written.get())

    def _slow_profiles(self) -> list[Path]:
        """Those of earlier attempts at the stage: the limit is for all together."""
        return [path for path in self._directory.glob(f"*{OPERATORS_SUFFIX}") if _SLOW_NAME.fullmatch(path.name)]


def _name(recording: _Recording, last: int) -> str:
    name = f"update-{recording.first}" + (f"-{last}" if last > recording.first else "")
    return f"{name}-after-slow" if recording.is_slow else name


def _title(recording: _Recording, last: int) -> str:
    which = f"update {recording.first}" if last == recording.first else f"updates {recording.first} to {last}"
    return f"{which} profiled: {recording.reason}"


def write_profile(
    profiler: torch.profiler.profile, directory: Path, name: str, title: str, *, steps: int, on_cuda: bool
) -> Path:
    """Write a stopped profiler's trace and tables; the path of the trace. Files appear whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = top_operators(profiler.key_averages(), steps, on_cuda=on_cuda)
    with atomic_file(directory / f"{name}.txt") as stream:
        stream.write(_text_table(title, rows).encode())
    trace = directory / f"{name}{TRACE_SUFFIX}"
    unfinished = directory / f".tmp-{trace.name}"  # torch compresses by the name's ending
    try:
        profiler.export_chrome_trace(str(unfinished))
        unfinished.replace(trace)
    finally:
        unfinished.unlink(missing_ok=True)
    # Last: it is what says that the profile is there.
    with atomic_file(directory / f"{name}{OPERATORS_SUFFIX}") as stream:
        stream.write(json.dumps({"title": title, "operators": rows}, indent=1).encode())
    return trace


def top_operators(averages: Sequence[Any], steps: int, *, on_cuda: bool) -> list[dict[str, Any]]:
    """The operators with the most own time, in figures for one update; the share is of all operators' own time."""
    own = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    events = [event for event in averages if not event.key.startswith("ProfilerStep")]
    total = sum(getattr(event, own) for event in events) or math.inf
    events.sort(key=lambda event: getattr(event, own), reverse=True)
    return [
        {
            "operator": event.key[:80],
            "calls": round(event.count / steps, 1),
            "own_share": round(getattr(event, own) / total, 4),
            "own_ms": round(getattr(event, own) / 1e3 / steps, 3),
            "own_cpu_ms": round(event.self_cpu_time_total / 1e3 / steps, 3),
            "allocated_mb": round((event.self_device_memory_usage if on_cuda else event.self_cpu_memory_usage) / 1e6
                                  / steps, 3),
            "gflop": round(event.flops / 1e9 / steps, 3) if event.flops else None,
        }
        for event in events[:_TOP_OPERATORS]
        if getattr(event, own) > 0
    ]  # fmt: skip


def _text_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in aligned columns."""
    if not rows:
        return f"{title}\nno operator ran\n"
    names = list(rows[0])
    cells = [[_written(row[name]) for name in names] for row in rows]
    widths = [max(len(line[index]) for line in [names, *cells]) for index in range(len(names))]
    lines = [title, "figures for one update; own: without what an operator calls", ""]
    for line in [names, *cells]:
        first = line[0].ljust(widths[0])
        lines.append("  ".join([first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]))
    return "\n".join(lines) + "\n"


def _written(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.3f}".removesuffix(".000") if isinstance(value, float) else str(value)


def read_profiles(directory: Path) -> list[dict[str, Any]]:
    """The operators files of an artifact: `title` and `operators`, in the order of the updates."""
    paths = sorted((directory / PROFILE_DIRECTORY).glob(f"*{OPERATORS_SUFFIX}"), key=_first_update)
    return [json.loads(path.read_bytes()) for path in paths]


def _first_update(path: Path) -> int:
    match = re.match(r"update-(\d+)", path.name)
    return int(match[1]) if match else 0
