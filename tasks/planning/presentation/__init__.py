"""A budget plan for people: tables for the terminal and the Prefect UI, the Markdown report, pictures, files.

Public surface: `terminal_report`, `plan_tables`, `markdown_report`, `plan_plots`, `plan_json`, `write_plan`,
`plan_metrics`, `headline`, `choices`; the ladder of sizes (`ladder_tables`); the risk of a plan (`PlanRisk`,
`TierRisk`, `plan_risk`, `risk_model`, `Findings`, `find`); what people state (`ProjectInputs`, `load_project`); and
`ReportTable` with `rich_table`, `markdown_table`, `plain_rows`.
"""

from tasks.planning.presentation.choices import Choices, choices
from tasks.planning.presentation.findings import Findings, find
from tasks.planning.presentation.headline import Headline, headline
from tasks.planning.presentation.ladder import ladder_tables
from tasks.planning.presentation.markdown_report import markdown_report
from tasks.planning.presentation.metrics import plan_metrics
from tasks.planning.presentation.output import plan_json, write_plan
from tasks.planning.presentation.plan_risk import PlanRisk, TierRisk, plan_risk, risk_model
from tasks.planning.presentation.plots import plan_plots
from tasks.planning.presentation.project import ProjectInputs, load_project
from tasks.planning.presentation.report_table import ReportTable, markdown_table, plain_rows, rich_table
from tasks.planning.presentation.terminal import plan_tables, terminal_report

__all__ = [
    "Choices",
    "Findings",
    "Headline",
    "PlanRisk",
    "ProjectInputs",
    "ReportTable",
    "TierRisk",
    "choices",
    "find",
    "headline",
    "ladder_tables",
    "load_project",
    "markdown_report",
    "markdown_table",
    "plain_rows",
    "plan_json",
    "plan_metrics",
    "plan_plots",
    "plan_risk",
    "plan_tables",
    "rich_table",
    "risk_model",
    "terminal_report",
    "write_plan",
]
