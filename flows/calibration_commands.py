"""`sam2 calibrate`: how fast this machine trains a profile's model, measured in two minutes and kept for planning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from tasks.calibration import Calibration, Measurement
    from tasks.training import TrainingStageConfig

console = Console(highlight=False)
#: More than this by other programs disturbs what is measured.
_QUIET_LOAD = 0.1

errors = Console(stderr=True, highlight=False)


def add_calibration_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command("calibrate")(calibrate)


def calibrate(
    profile: Annotated[str, typer.Option(help="A profile of flows/profiles/, by name.")] = "smoke",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, e.g. --set training.ranks=1; repeatable.", metavar="PATH=VALUE"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=20, help="About how long to measure; a process's start and end come on top.")
    ] = 90.0,
    contexts: Annotated[
        str, typer.Option(help="Tokens in a row to measure, separated by commas; by default the curriculum's.")
    ] = "",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also peak memory, beside its prediction.")
    ] = True,
    home: Annotated[Path | None, typer.Option(help="Where it is kept; by default SAM2_HOME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: the calibration, nothing else.")] = False,
) -> None:
    """Measure how fast this machine trains a profile's model: tokens a second, utilisation, memory.

    Needs no data and no servers. What is measured is kept, so that plans and forecasts are of this machine.
    """
    from flows.configuration import load_profile
    from flows.overrides import parse_assignments
    from infra.stack import StackSettings
    from tasks.calibration import CalibrationStore
    from tasks.calibration import calibrate as measure

    stages = load_profile(profile, parse_assignments(set_ or [])).training_stages()
    with _progress() as bar:
        task = bar.add_task("starting", total=1.0)
        found = measure(
            stages,
            seconds=seconds,
            contexts=_lengths(contexts),
            with_memory=memory,
            report=lambda share, what: bar.update(task, completed=share, description=what),
        )
        bar.update(task, completed=1.0, description="done")
    path = CalibrationStore.of_home(home or StackSettings.from_environment().home).save(found)
    if as_json:
        console.print_json(found.model_dump_json())
    else:
        console.print(shown(found, stages))
        console.print(f"Kept in {path}", soft_wrap=True, markup=False)


def _progress() -> Progress:
    """On the standard error, so that --json can be piped."""
    return Progress(
        TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn(), console=errors, transient=True
    )


def _lengths(text: str) -> list[int]:
    from infra.errors import ConfigurationError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdigit() or int(part) < 16]
    if wrong:
        raise ConfigurationError(
            f"--contexts {text}: '{wrong[0]}' is no number of tokens from 16.", "write e.g. --contexts 256,512,1024."
        )
    return sorted({int(part) for part in parts})


def shown(calibration: Calibration, stages: list[TrainingStageConfig]) -> RenderableType:
    """What was measured, and what follows for the stages, as tables with notes."""
    fitted = calibration.step_times
    notes = [
        f"{calibration.hardware.describe()}; {calibration.setup.describe()}; torch {calibration.torch_version}; "
        f"measured {calibration.measured_at:%Y-%m-%d %H:%M} UTC in {calibration.measuring_seconds:.0f} s",
        f"Utilisation (MFU) is relative to {calibration.peak_flops / 1e12:,.3g} TFLOP/s: {calibration.peak_origin}",
        f"Contexts that were left out of the fit are predicted to {max(one.relative_error for one in fitted):.1%} "
        f"(at worst {max(one.worst_error for one in fitted):.1%}).",
    ]
    if calibration.other_load > _QUIET_LOAD:
        notes.append(
            f"Other programs kept {calibration.other_load:.0%} of the cores busy meanwhile, which widens the expected "
            "error (±): repeat this when the machine is quiet."
        )
    if calibration.process_peak_bytes:
        notes.append(
            f"The trainer's process was {calibration.process_peak_bytes / 1e9:.2f} GB at its largest, "
            "libraries and the allocator's slack included."
        )
    return Group(_measured_table(calibration), "", _stage_table(calibration, stages), "", *notes)


def _measured_table(calibration: Calibration) -> Table:
    from tasks.calibration.work import useful_flops, work_of

    table = Table(box=None, title="measured, one micro-batch an update", title_justify="left", title_style="bold")
    for heading in (
        "context", "micro-batch", "s/update", "tokens/s", "MFU", "fit", "peak MB", "predicted", "difference",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    lines = {one.variant: one for one in calibration.step_times}
    memory = {(one.variant, one.context_tokens, one.micro_batch): one for one in calibration.memory}
    for point in calibration.measurements:
        seconds = point.micro_batch_seconds + point.update_seconds
        data_ranks = calibration.setup.ranks // point.variant.sequence_parallel
        rate = point.context_tokens * point.micro_batch * data_ranks / seconds
        mfu = useful_flops(calibration.model, point.context_tokens, rate) / calibration.peak_flops
        work = work_of(calibration.model, point.context_tokens, point.micro_batch, point.variant)
        error = lines[point.variant].update_seconds(work, 1) / seconds - 1
        peak = memory.get((point.variant, point.context_tokens, point.micro_batch))
        cells = (
            [f"{peak.measured_bytes / 1e6:,.0f}", f"{peak.predicted_bytes / 1e6:,.0f}", f"{peak.difference:+.1%}"]
            if peak
            else ["–", "–", "–"]
        )
        table.add_row(*_sizes(point), f"{seconds:.3f}", f"{rate:,.0f}", f"{mfu:.1%}", f"{error:+.1%}", *cells)
    return table


def _sizes(point: Measurement) -> tuple[str, str]:
    return f"{point.context_tokens:,}", f"{point.micro_batch:,}"


def _stage_table(calibration: Calibration, stages: list[TrainingStageConfig]) -> Table:
    table = Table(box=None, title="predicted, the profile's stages", title_justify="left", title_style="bold")
    table.add_column("stage", no_wrap=True)
    for heading in ("context", "micro-batch", "updates", "s/update", "tokens/s", "MFU", "whole stage", "±"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        row: list[Any] = [
            f"{stage.context_tokens:,}",
            f"{stage.batch_plan.micro_batch} x {stage.batch_plan.accumulation}",
            f"{stage.steps:,}",
            f"{calibration.step_seconds(stage):.3f}",
            f"{calibration.tokens_per_second(stage):,.0f}",
            f"{calibration.mfu(stage):.1%}",
            duration(calibration.stage_seconds(stage)),
            f"{calibration.relative_error_of(stage):.0%}",
        ]
        table.add_row(stage.name, *row)
    return table


def duration(seconds: float) -> str:
    """`75 s`, `12.5 min`, `3.2 h` or `40 days`, whichever reads best."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:,.0f} {unit}" if unit == "s" else f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 86_400:,.1f} days"
