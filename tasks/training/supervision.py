"""Sees a stage's training to its end: starts the ranks, watches them, and starts them again when they die.

What is seen here cannot be seen from inside: a rank that was killed, a step that hangs, a machine about to be taken
away. What the trainer can see itself (a loss that is no number) it mends itself and only reports.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.errors import BudgetExceeded, ConfigurationError, PipelineError, StorageFull
from infra.processes import ChildFailed, ChildStalled, run_streaming
from tasks.training.errors import (
    LoaderTrouble,
    OutOfMemory,
    StorageTrouble,
    TrainingDiverged,
    TrainingFailed,
    TrainingInterrupted,
)
from tasks.training.heartbeat import LONG_PHASES, Beat, clear_beats, read_beats
from tasks.training.incidents import Incident, IncidentLog
from tasks.training.job import TrainingJob
from tasks.training.launch import TRAINER_MODULE, Attempt, trainer_command, trainer_environment, word_path
from tasks.training.policy import RestartPolicy

#: Seconds between asking a hung rank for its stack and killing it: the stack comes through the pipe meanwhile.
_STACK_SECONDS = 2.0
_USUAL_UPDATES = 20
_SHORTEST_HANG_SECONDS = 60.0
_LONGEST_BACKOFF_SECONDS = 60.0
_PROGRAM_ERROR = "failed rank"
_ROOT_CAUSE = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)")
_EXIT_CODE = re.compile(r"exitcode\s*: (-?\d+)")

Event = Mapping[str, Any]

#: Errors that the trainer names by their type; any other is final too, because it would come again.
_FAILURES: dict[str, type[PipelineError]] = {
    "TrainingDiverged": TrainingDiverged,
    "StorageFull": StorageTrouble,
    "CheckpointFailed": StorageTrouble,
    "SourceError": StorageTrouble,
    "DamagedObject": StorageTrouble,
    "LoaderStalled": LoaderTrouble,
}


class RankHung(PipelineError):
    """A rank stayed in one phase of an update for longer than it may."""

    def __init__(self, beat: Beat, stalled_loader: bool) -> None:
        super().__init__(f"{beat.describe()}.", "its stack is in the log above; the run continues by itself.")
        self.beat = beat
        self.kind = "stalled data loader" if stalled_loader else "hung step"


class MachineLost(PipelineError):
    """The ranks on another machine ended."""

    def __init__(self, node: int, text: str) -> None:
        super().__init__(f"machine {node}: {text}", "read the log of `sam2 join` there; the run continues by itself.")


Ending = ChildFailed | ChildStalled | RankHung | MachineLost | StorageFull


class Watch:
    """Looks at the beats of this machine's ranks about once a second; raises RankHung."""

    def __init__(self, directory: Path, ranks: range, policy: RestartPolicy) -> None:
        self._directory = directory
        self._ranks = ranks
        self._policy = policy
        self._asked: tuple[Beat, float] | None = None
        self._seen: dict[int, Beat] = {}
        self._started = time.monotonic()
        self.usual_seconds = 0.0
        clear_beats(directory, ranks)

    def __call__(self) -> None:
        if self._asked is not None:
            beat, asked = self._asked
            if time.monotonic() - asked < _STACK_SECONDS:
                return
            if beat.pid:
                _signal(beat.pid, signal.SIGKILL)  # a rank stuck in native code hears nothing gentler
            raise RankHung(beat, beat.phase == "data")
        beats = self._beats()
        stuck = [beat for beat in beats if beat.seconds() > self._limit(beat)]
        if stuck:
            # Whoever waits for others is stuck too; the one least far is the reason.
            culprit = min(beats, key=lambda beat: beat.progress)
            if culprit.pid:
                _signal(culprit.pid, signal.SIGUSR1)
            self._asked = culprit, time.monotonic()

    def _beats(self) -> list[Beat]:
        """The last of every rank here, also of one whose file is just being written.

        A rank that has not said anything is starting since the watch began; once updates are made it is at work,
        and only its file could not be written.
        """
        self._seen |= {beat.rank: beat for beat in read_beats(self._directory, self._ranks)}
        silent = [rank for rank in self._ranks if rank not in self._seen and not self.usual_seconds]
        return [*self._seen.values(), *(Beat(rank, 0, 0, "starting", self._started) for rank in silent)]

    def _limit(self, beat: Beat) -> float:
        # Until an update was made here nobody knows how long one takes, also after a restart in mid-stage.
        if beat.phase in LONG_PHASES or not self.usual_seconds:
            return self._policy.start_seconds
        if self._policy.hang_seconds is not None:
            return self._policy.hang_seconds
        return max(_SHORTEST_HANG_SECONDS, _USUAL_UPDATES * self.usual_seconds)


class Supervisor:
    """Runs a job to its end. `on_event` gets the trainer's events, `on_line` its other output."""

    def __init__(
        self,
        job: TrainingJob,
        job_path: Path,
        incidents: IncidentLog,
        on_event: Callable[[Event], None],
        on_line: Callable[[str], None],
        on_incident: Callable[[Incident], None],
        module: str = TRAINER_MODULE,
    ) -> None:
        self._job = job
        self._job_path = job_path
        self._policy = job.config.restart
        self._incidents = incidents
        self._on_event, self._on_line, self._on_incident = on_event, on_line, on_incident
        self._module = module
        self._furthest = 0
        self._step = 0
        self._failure: Exception | None = None
        self._last_detail = ""
        self._written: TrainingJob | None = None

    def run(self) -> None:
        """Train until the stage is finished, whatever dies on the way.

        Raises TrainingDiverged or TrainingFailed when the trainer says that starting again would not help, and
        TrainingFailed after `restart.maximum` starts in a row that got no further.
        """
        number, idle = 1, 0
        while True:
            before = self._furthest
            try:
                self._attempt(number)
            except (ChildFailed, ChildStalled, RankHung, MachineLost, StorageFull) as error:
                idle = 0 if self._furthest > before else idle + 1
                self._after(error, idle)
            else:
                self._announce(Attempt.of(0, self._job.config))
                self._incidents.flush()
                return
            number += 1

    def _attempt(self, number: int) -> None:
        self._failure = None
        if self._written is not self._job:
            self._job.write(self._job_path)
            self._written = self._job
        attempt = Attempt.of(number, self._job.config)
        self._announce(attempt)
        watch = Watch(self._job.heartbeats, attempt.ranks_of(0), self._policy)

        def on_event(event: dict[str, Any]) -> None:
            self._note(event, watch)

        def look() -> None:
            watch()
            self._hear_other_machines(attempt, watch)

        kills = kernel_memory_kills()
        try:
            run_streaming(
                trainer_command(attempt, self._job_path, module=self._module),
                on_line=self._on_line,
                on_event=on_event,
                environment=trainer_environment(attempt),
                patience={BudgetExceeded: self._policy.stop_seconds},
                watch=look,
            )
        except ChildFailed:
            if kernel_memory_kills() > kills and self._failure is None:
                self._failure = OutOfMemory("the kernel killed a process for want of memory.", "see the incident.")
            raise

    def _announce(self, attempt: Attempt) -> None:
        """Tell the other machines, if there are any."""
        if attempt.nodes > 1:
            attempt.write(self._job_path)

    def _note(self, event: Event, watch: Watch) -> None:
        kind = event["event"]
        if kind == "step":
            self._step = event["step"]
            self._furthest = max(self._furthest, event["step"])
            watch.usual_seconds = event["seconds"]
        elif kind == "incident":
            self._tell(Incident.of_event(event))
        elif kind == "interrupted":
            self._failure = TrainingInterrupted(f"stopped after update {event['step']}.", "it continues from there.")
        elif kind == "out_of_memory":
            self._failure = OutOfMemory(event["text"], "use a smaller micro_batch.")
        elif kind == "error":
            self._failure = _FAILURES.get(event["type"], TrainingFailed)(event["problem"], event["fix"])
        self._on_event(event)

    def _hear_other_machines(self, attempt: Attempt, watch: Watch) -> None:
        """Raise MachineLost when another machine says that its ranks have ended."""
        for node in range(1, attempt.nodes):
            path = word_path(self._job_path, attempt.number, node)
            for event in map(json.loads, path.read_text().splitlines() if path.exists() else []):
                if event["event"] == "ended":
                    raise MachineLost(node, event["text"])
                self._note(event, watch)

    def _after(self, error: Ending, idle: int) -> None:
        """Record what ended an attempt and prepare the next one; raise when there is to be none."""
        failure = self._failure
        if isinstance(failure, TrainingFailed):
            raise failure from error
        kind, detail = self._name(error)
        if idle and kind == _PROGRAM_ERROR and detail == self._last_detail:
            raise TrainingFailed(
                f"training ended twice in the same way before update {self._step + 1}: {detail}.",
                "the log holds the traceback; once mended, run again: it continues from its last checkpoint.",
            ) from error
        self._last_detail = detail
        action = "started again from the last checkpoint"
        if isinstance(failure, OutOfMemory):
            smaller = self._smaller_micro_batch(failure)
            action = f"micro_batch {self._job.config.batch_plan.micro_batch} -> {smaller}, the same rows an update"
            self._job = self._job.with_micro_batch(smaller)
        if idle > self._policy.maximum:
            raise TrainingFailed(
                f"training ended {idle} times in a row without getting past update {self._furthest}; "
                f"the last time: {kind}, {detail}.",
                "look at the lines above it in the log; once mended, run again: it continues from its last checkpoint.",
            ) from error
        self._tell(Incident.now(self._step, kind, detail, action))
        if idle:
            time.sleep(min(self._policy.backoff_seconds * 2 ** (idle - 1), _LONGEST_BACKOFF_SECONDS))

    def _name(self, error: Ending) -> tuple[str, str]:
        if isinstance(self._failure, TrainingInterrupted):
            return "stop signal", "SIGTERM (a notice that the machine is wanted back, or an operator)"
        if isinstance(self._failure, OutOfMemory):
            return "out of memory", self._failure.problem
        if isinstance(self._failure, StorageTrouble):
            return "storage", self._failure.problem
        if isinstance(self._failure, LoaderTrouble):
            return "stalled data loader", self._failure.problem
        if isinstance(error, RankHung):
            return error.kind, error.beat.describe()
        if isinstance(error, ChildStalled):
            return "hung step", "no output"
        if isinstance(error, MachineLost):
            return "dead rank", error.problem
        if isinstance(error, StorageFull):
            return "storage", error.problem
        text = "\n".join(error.last_lines)
        rank, code = _ROOT_CAUSE.search(text), _EXIT_CODE.search(text)
        who = f"rank {rank.group(1)}" if rank else "rank 0"
        ending = int(code.group(1)) if code else error.exit_code
        if ending < 0:
            return "dead rank", f"{who} was killed by {signal.Signals(-ending).name}"
        last = error.last_lines[-1] if error.last_lines and not rank else ""
        return _PROGRAM_ERROR, f"{who} exited with code {ending}" + (f": {last}" if last else "")

    def _smaller_micro_batch(self, failure: OutOfMemory) -> int:
        try:
            return self._job.config.batch_plan.with_smaller_micro_batch().micro_batch
        except ConfigurationError as error:
            raise TrainingFailed(
                f"one row of {self._job.config.context_tokens} tokens does not fit into memory: {failure.problem}",
                "set gradient_checkpointing, a higher zero_stage, an offload or sequence_parallel; "
                "`sam2 fit` says which of them is enough.",
            ) from error

    def _tell(self, incident: Incident) -> None:
        self._incidents.add(incident)
        self._on_incident(incident)


def kernel_memory_kills(path: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
