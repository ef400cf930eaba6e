"""The report of a run: one self-contained HTML file, and a few lines for the terminal.

Public surface: `RunSummary` and its parts, `write_report`, `render_report`, `text_summary`; `compare_plan` (what fills
`RunSummary.plan`), `plan_metrics` (the same for MLflow).
"""

from tasks.registration.version import RegisteredVersion
from tasks.reporting.plan_comparison import (
    BasisLesson,
    BudgetDecision,
    PlanComparison,
    PlannedStageSpend,
    compare_plan,
    plan_metrics,
)
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
    "BasisLesson",
    "BudgetDecision",
    "Machine",
    "PlanComparison",
    "PlannedStageSpend",
    "RegisteredVersion",
    "RunSummary",
    "Spend",
    "StageSpend",
    "StageSummary",
    "TextSample",
    "compare_plan",
    "plan_metrics",
    "render_report",
    "text_summary",
    "write_report",
]
