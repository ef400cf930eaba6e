"""The report: one HTML file with everything in it, readable offline, on paper and on a phone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from infra.storage.local import atomic_file
from tasks.reporting.formatting import percent
from tasks.reporting.headline import headline
from tasks.reporting.sections import all_sections
from tasks.reporting.summary import RunSummary

_HEAT_STEPS = 10


def write_report(summary: RunSummary, path: Path) -> None:
    """Write the report atomically; its directory is created when missing."""
    page = render_report(summary)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(page.encode("utf-8", "replace"))


def render_report(summary: RunSummary) -> str:
    """The report's HTML."""
    style = Markup(_read("report.css"))  # noqa: S704 - our own file, no data in it
    template = _environment().get_template("report.html")
    return template.render(summary=summary, headline=headline(summary), sections=all_sections(summary), style=style)


@dataclass(frozen=True)
class _Heat:
    """A heat map cell: what it says and which of the style sheet's steps colours it."""

    text: str
    step: str


def _heat(share: float | None) -> _Heat:
    if share is None:
        return _Heat("–", "none")
    return _Heat(percent(round(share, 3)), str(round(max(0.0, min(1.0, share)) * _HEAT_STEPS)))


def _is_web_address(address: str) -> bool:
    """Only http and https become links: a summary is data, and data may say `javascript:`."""
    return urlsplit(address).scheme in ("http", "https")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tasks.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["heat"] = _heat
    environment.tests["web_address"] = _is_web_address
    return environment


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
