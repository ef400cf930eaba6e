"""The first screen: is the model good, how good, how long it took and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.reporting import facts
from tasks.reporting.formatting import NOT_KNOWN, count, dollars, duration, percent, size
from tasks.reporting.sections import format_rows, verdict_on_bits
from tasks.reporting.summary import RunSummary


@dataclass(frozen=True)
class KeyFigure:
    """A large number with its name and what to compare it with."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """The verdict in a few words, its tone, the sentences under it and the key figures."""

    verdict: str
    tone: str
    sentences: list[str]
    figures: list[KeyFigure]


def headline(summary: RunSummary) -> Headline:
    """Judge the run by its status first, then by the gates."""
    verdict, tone = _verdict(summary)
    missed = facts.gates(summary).missed
    sentences = [sentence for sentence in (verdict_on_bits(summary),) if sentence]
    if missed:
        sentences.append(f"Not passed: {'; '.join(missed)}.")
    sentences += [f"{stage.title} failed: {stage.error}" for stage in summary.stages if stage.error][:1]
    return Headline(verdict, tone, sentences, _key_figures(summary))


def _verdict(summary: RunSummary) -> tuple[str, str]:
    found = facts.gates(summary)
    if summary.status.lower() in ("failed", "crashed", "cancelled"):
        return f"The run {summary.status.lower()} before its end", "bad"
    if summary.status.lower() == "waiting":
        return "The run waits for an answer about its budget", "warn"
    if summary.status.lower() == "stopped":
        judged = f"; its partial model passed {found.passed} of {len(found.rows)} gates" if found.rows else ""
        return f"The run was stopped for its budget{judged}", "warn"
    if summary.status.lower() != "completed":
        return f"The run is {summary.status.lower()}", "quiet"
    if not found.rows:
        return "The run completed; its model was not judged", "quiet"
    if found.all_passed:
        return f"The model passed all {len(found.rows)} gates", "good"
    return f"The model passed {found.passed} of {len(found.rows)} gates", "warn"


def _key_figures(summary: RunSummary) -> list[KeyFigure]:
    return [
        _bits(summary),
        _context(summary) or _recall(summary),
        _tokens(summary),
        _time(summary),
        _money(summary),
        _deployable(summary),
    ]


def _bits(summary: RunSummary) -> KeyFigure:
    bits = facts.metric(summary, facts.EVALUATION, "eval/bits_per_byte")
    others = facts.baselines(summary)
    if bits is None:
        return KeyFigure("Bits per byte", NOT_KNOWN, "not run")
    if not others:
        return KeyFigure("Bits per byte", f"{bits:.3f}", "no baseline")
    name, best = min(others.items(), key=lambda item: item[1])
    return KeyFigure("Bits per byte", f"{bits:.3f}", f"best baseline {best:.3f} ({name})")


def _recall(summary: RunSummary) -> KeyFigure:
    recall = facts.metric(summary, facts.EVALUATION, *facts.RECALL_METRICS)
    chance = facts.metric(summary, facts.EVALUATION, *facts.CHANCE_METRICS)
    if recall is None:
        return KeyFigure("Needle recall", NOT_KNOWN, "not run")
    return KeyFigure("Needle recall", percent(recall), f"guessing gives {percent(chance)}" if chance else "")


def _context(summary: RunSummary) -> KeyFigure | None:
    """The longest context that was tested and holds, with the recall; None for evaluations that did not test it."""
    stage = facts.last(summary, facts.EVALUATION)
    statistics = facts.manifest_of(stage).statistics if stage else {}
    if "claimed_context" not in statistics:
        return None
    held, recall = statistics["claimed_context"], _recall(summary)
    note = f"tokens; needle recall {recall.value}, {recall.note}" if held else "of the lengths tested"
    return KeyFigure("Context held", f"{held:,}" if held else "none", note)


def _tokens(summary: RunSummary) -> KeyFigure:
    tokens = facts.trained_tokens(summary)
    parameters = facts.parameters(summary)
    note = f"{count(parameters)} parameters" if parameters else ""
    if tokens is None:
        return KeyFigure("Tokens trained", NOT_KNOWN, note or "not run")
    return KeyFigure("Tokens trained", count(tokens), note)


def _time(summary: RunSummary) -> KeyFigure:
    reused = sum(1 for stage in summary.stages if stage.reused)
    stages = f"{len(summary.stages)} stages" + (f", {reused} reused" if reused else "")
    return KeyFigure("Time", duration(summary.seconds), stages)


def _money(summary: RunSummary) -> KeyFigure:
    spend = summary.spend
    ceiling = "no ceiling" if spend.ceiling_usd is None else f"of {dollars(spend.ceiling_usd)} ceiling"
    return KeyFigure("Cost", dollars(spend.this_run_usd), f"{dollars(spend.total_usd)} in all, {ceiling}")


def _deployable(summary: RunSummary) -> KeyFigure:
    sized = [row for row in format_rows(summary) if row.size_mb]
    if not sized:
        return KeyFigure("Smallest file", NOT_KNOWN, "not run")
    smallest = min(sized, key=lambda row: row.size_mb or 0)
    return KeyFigure("Smallest file", size((smallest.size_mb or 0) * 1e6), smallest.name)
