"""Shows a flow run in the terminal while it happens: stages, log lines, progress."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from infra.stack.runs import Event, FlowRun, LogLine, RunChange, StageChange
from infra.stack.runs import Progress as ProgressEvent

# Where output goes to a file, a bar becomes a line each time it has moved by this much.
PLAIN_PROGRESS_STEP_PERCENT = 10.0

STATE_STYLES = {
    "Completed": "green",
    "Cached": "green",
    "Running": "cyan",
    "Failed": "bold red",
    "Crashed": "bold red",
    "TimedOut": "bold red",
    "Cancelled": "yellow",
    "Cancelling": "yellow",
    "AwaitingRetry": "yellow",
    "Suspended": "bold yellow",
    "OnHold": "yellow",
}


class _Bars(Progress):
    """The bars, and under them one line that says where the work is."""

    detail = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.detail:
            yield Text(self.detail, style="dim")


class RunView:
    """Prints events; live bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._told_percent: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = _Bars(*columns, console=console, transient=True)

    def show(self, events: Iterable[Event]) -> FlowRun | None:
        """Print until the events end; the run as it was last seen."""
        run = None
        if not self._console.is_terminal:
            for event in events:
                run = self._show_one(event) or run
            return run
        with self._progress:
            for event in events:
                run = self._show_one(event) or run
        return run

    def _show_one(self, event: Event) -> FlowRun | None:
        match event:
            case LogLine():
                if not event.is_plumbing:
                    self._print_log(event)
            case StageChange():
                self._print_stage(event)
            case ProgressEvent():
                self._move_bar(event)
            case RunChange():
                self._print_run(event.run)
                return event.run
        return None

    def _print_log(self, line: LogLine) -> None:
        style = "red" if line.level >= logging.ERROR else "yellow" if line.level >= logging.WARNING else ""
        clock = line.timestamp.astimezone().strftime("%H:%M:%S")
        self._console.print(Text.assemble((f"{clock} ", "dim"), (line.message, style)), soft_wrap=True)

    def _print_stage(self, stage: StageChange) -> None:
        style = STATE_STYLES.get(stage.state_name, "")
        took = f" in {stage.seconds:.1f} s" if stage.seconds > 0 and stage.state_name != "Running" else ""
        text = Text.assemble(("stage ", "dim"), (stage.name, "bold"), " ", (stage.state_name, style), took)
        self._console.print(text, soft_wrap=True)

    def _print_run(self, run: FlowRun) -> None:
        style = STATE_STYLES.get(run.state_name, "")
        detail = f": {run.message}" if run.message and run.state_name not in ("Completed", "Running") else ""
        text = Text.assemble(("run ", "dim"), (run.name, "bold"), " ", (run.state_name, style), detail)
        self._console.print(text, soft_wrap=True)
        if run.is_waiting:
            hint = f"It waits for your answer: sam2 answer {run.name}"
            self._console.print(hint, style="bold yellow", soft_wrap=True)

    def _move_bar(self, event: ProgressEvent) -> None:
        if self._console.is_terminal:
            if event.label not in self._bars:
                self._bars[event.label] = self._progress.add_task(event.label, total=100.0)
            self._progress.detail = event.detail if event.percent < 100.0 else ""
            self._progress.update(self._bars[event.label], completed=event.percent, visible=event.percent < 100.0)
            return
        told = self._told_percent.get(event.label)
        is_step = told is None or abs(event.percent - told) >= PLAIN_PROGRESS_STEP_PERCENT
        if is_step or (event.percent >= 100.0 and told != event.percent):
            self._told_percent[event.label] = event.percent
            told_now = f"{event.label}: {event.percent:.0f}% {event.detail}".rstrip()
            self._console.print(told_now, highlight=False, markup=False, soft_wrap=True)
