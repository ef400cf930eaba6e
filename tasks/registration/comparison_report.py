"""The comparison as files: Markdown, JSON, a picture, and an HTML page that needs nothing else."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from infra.storage.local import atomic_file
from tasks.registration.comparison import LEVEL, Comparison, Verdict, metrics_counted
from tasks.registration.comparison_plot import plot_forest
from tasks.registration.model_card import markdown_table

MARKDOWN, PAGE, FIGURES, PLOT = "comparison.md", "comparison.html", "comparison.json", "forest.png"
_TONES = {Verdict.BETTER: "good", Verdict.WORSE: "bad", Verdict.UNDECIDED: "quiet"}
_STYLE = Path(__file__).parents[1] / "reporting" / "report.css"


def write_comparison(directory: Path, comparison: Comparison) -> list[Path]:
    """Write all files below `directory`; the plot only when a metric was compared."""
    picture = directory / PLOT
    if comparison.metrics:
        plot_forest(picture, comparison)
    else:
        picture.unlink(missing_ok=True)
    _write(directory / MARKDOWN, comparison_markdown(comparison))
    _write(directory / PAGE, comparison_page(comparison, picture if comparison.metrics else None))
    _write(directory / FIGURES, json.dumps(comparison.as_json(), indent=1, ensure_ascii=False))
    written = [directory / name for name in (MARKDOWN, PAGE, FIGURES)]
    return [*written, picture] if comparison.metrics else written


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The metrics as rows for people, in the order they were compared."""
    return [
        {
            "metric": metric.name,
            "better is": "more" if metric.higher_is_better else "less",
            "items": metric.items,
            "candidate": metric.candidate,
            "champion": metric.champion,
            "difference": metric.difference,
            "95% interval": f"{metric.low:+.4g} to {metric.high:+.4g}",
            "p": float(f"{metric.p:.2g}"),
            "p after correction": float(f"{metric.adjusted_p:.2g}"),
            "verdict": metric.verdict.value,
        }
        for metric in comparison.metrics
    ]


def uncompared_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """What was left out, and why."""
    return [{"metric": one.name, "reason": one.reason} for one in comparison.uncompared]


def how(comparison: Comparison) -> str:
    """What the figures are."""
    return (
        f"Paired bootstrap over the items both were asked ({comparison.resamples:,} resamples); a difference is "
        f"candidate minus champion in the metric's unit; p is two-sided, and the verdict follows from p after Holm's "
        f"correction over {metrics_counted(len(comparison.metrics))}, at {LEVEL:.0%}. Items that only one of the two "
        "was asked do not count, so a figure may differ from the evaluation's own."
    )


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison in Markdown."""
    parts = [f"# {comparison.candidate} against {comparison.champion}", comparison.sentence]
    if comparison.metrics:
        parts += [f"![Differences with 95% intervals]({PLOT})", markdown_table(comparison_rows(comparison))]
    if comparison.uncompared:
        parts += ["## Not compared", markdown_table(uncompared_rows(comparison))]
    if comparison.metrics:
        parts += ["## How", how(comparison)]
    return "\n\n".join(parts) + "\n"


def comparison_page(comparison: Comparison, picture: Path | None) -> str:
    """The comparison as one HTML file with style and picture in it."""
    embedded = base64.b64encode(picture.read_bytes()).decode() if picture else ""
    rows = [
        {**row, "tone": _TONES[Verdict(row["verdict"])], "only": (metric.only_candidate, metric.only_champion)}
        for row, metric in zip(comparison_rows(comparison), comparison.metrics, strict=True)
    ]
    return _environment().get_template("comparison.html").render(
        comparison=comparison,
        tone="bad" if comparison.objections else "quiet" if comparison.not_run else "good",
        rows=rows,
        uncompared=uncompared_rows(comparison),
        how=how(comparison),
        picture=embedded,
        style=Markup(_STYLE.read_text(encoding="utf-8")),  # noqa: S704 - our own file, no data in it
    )  # fmt: skip


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.registration", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["figure"] = lambda value: f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
    return environment
