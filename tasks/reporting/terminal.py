"""The run in a terminal: what a person wants to know before opening the report."""

from __future__ import annotations

import textwrap

from tasks.reporting import facts
from tasks.reporting.formatting import dollars, duration, size
from tasks.reporting.headline import headline
from tasks.reporting.plan_section import plan_sentence
from tasks.reporting.sections import format_rows
from tasks.reporting.summary import RunSummary, StageSummary

MAXIMUM_LINES = 40
_MAXIMUM_STAGES = 14
_WIDTH = 96
_SAMPLE_LINES = 4


def text_summary(summary: RunSummary) -> str:
    """At most 40 aligned lines of plain text."""
    top = headline(summary)
    lines = [f"{summary.run_name} · profile {summary.profile} · {summary.status}", top.verdict]
    lines += [*top.sentences, ""]
    lines += _stage_lines(summary)
    lines += [""] + [f"{figure.name:<16}{figure.value:>12}   {figure.note}".rstrip() for figure in top.figures]
    lines += _format_lines(summary) + _registry_lines(summary) + _sample_lines(summary)
    printable = [_printable(line) for line in lines]
    return "\n".join(printable[:MAXIMUM_LINES])


def _printable(line: str) -> str:
    """One line without control characters: what stages say must not move the terminal's cursor."""
    clean = "".join(character if character.isprintable() else " " for character in line)
    return clean if len(clean) <= _WIDTH else clean[: _WIDTH - 1] + "…"


def _stage_lines(summary: RunSummary) -> list[str]:
    shown = summary.stages[:_MAXIMUM_STAGES]
    width = max((len(stage.title) for stage in shown), default=0)
    lines = [
        f"{stage.title:<{width}}  {_state(stage):<8}{duration(stage.seconds):>13}{dollars(stage.usd):>12}"
        + _planned(summary, stage)
        for stage in shown
    ]
    hidden = len(summary.stages) - len(shown)
    lines += [f"… and {hidden} more stages"] if hidden else []
    return lines + _plan_lines(summary)


def _planned(summary: RunSummary, stage: StageSummary) -> str:
    """What the stage was planned to cost, and what all its attempts took of it; nothing for a run without a plan."""
    if summary.plan is None:
        return ""
    row = next((row for row in summary.plan.rows if row.stage == stage.name), None)
    if row is None or row.planned_usd is None:
        return f"{'no plan':>20}"
    if not row.planned_usd:
        return ""
    ratio = "" if row.ratio is None else f"× {row.ratio:.2f}"
    return f"{dollars(row.planned_usd) + ' planned':>20}{ratio:>9}"


def _plan_lines(summary: RunSummary) -> list[str]:
    if summary.plan is None or summary.plan.ratio is None:
        return []
    return ["", *textwrap.wrap(plan_sentence(summary.plan), _WIDTH)]


def _state(stage: StageSummary) -> str:
    if stage.manifest is None or stage.error:
        return "failed"
    return "reused" if stage.reused else "built"


def _format_lines(summary: RunSummary) -> list[str]:
    rows = format_rows(summary)
    if not rows:
        return []
    lines = ["", f"{'format':<16}{'size':>12}{'perplexity':>14}"]
    for row in rows[:9]:
        weight = "–" if row.size_mb is None else size(row.size_mb * 1e6)
        perplexity = "–" if row.perplexity is None else f"{row.perplexity:.3f}"
        lines.append(f"{row.name:<16}{weight:>12}{perplexity:>14}")
    return lines


def _registry_lines(summary: RunSummary) -> list[str]:
    registered = summary.registered
    if registered is None:
        return [] if facts.last(summary, facts.REGISTRATION) is None else ["registered      bundle only"]
    aliases = ", ".join(registered.aliases) or "no alias"
    return ["", f"registered      {registered.name} version {registered.version} ({aliases})"]


def _sample_lines(summary: RunSummary) -> list[str]:
    """The first sample of the model's text; the prompt in brackets."""
    if not summary.samples:
        return []
    sample = summary.samples[0]
    text = " ".join(f"[{sample.prompt.strip()}] {sample.text}".split())
    return ["", *textwrap.wrap(f"the model writes: {text}", _WIDTH)[:_SAMPLE_LINES]]
