"""The report of a run: one self-contained HTML file, and a few lines for the terminal.

Public surface: `RunSummary` and its parts, `write_report`, `render_report`, `text_summary`.
"""

from tasks.registration.version import RegisteredVersion
from tasks.reporting.report import render_report, write_report
from tasks.reporting.summary import (
    Machine,
    RunSummary,
    Spend,
    StageSpend,
    StageSummary,
    TextSample,
)
from tasks.reporting.terminal import text_summary

__all__ = [
    "Machine",
    "RegisteredVersion",
    "RunSummary",
    "Spend",
    "StageSpend",
    "StageSummary",
    "TextSample",
    "render_report",
    "text_summary",
    "write_report",
]
