"""A plan as files: JSON for programs, Markdown for people, PNG for both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from infra.storage.local import atomic_file
from tasks.planning.plan import BudgetPlan
from tasks.planning.presentation.findings import Findings
from tasks.planning.presentation.markdown_report import markdown_report
from tasks.planning.presentation.plan_risk import PlanRisk
from tasks.planning.presentation.plots import plan_plots, write_plots
from tasks.planning.presentation.report_table import ReportTable
from tasks.risk.plots import plot_cost, plot_gantt, plot_returns, plot_tornado

JSON_FILE, MARKDOWN_FILE = "plan.json", "plan.md"


def plan_json(plan: BudgetPlan, risk: PlanRisk | None = None) -> str:
    """`plan` as BudgetPlan, `risk` as PlanRisk or null; both read back with `model_validate`."""
    content = {
        "plan": plan.model_dump(mode="json"),
        "risk": None if risk is None else risk.model_dump(mode="json"),
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def write_plan(
    directory: Path, plan: BudgetPlan, findings: Findings | None = None, further: Sequence[ReportTable] = ()
) -> list[Path]:
    """Write everything below `directory` and return the paths; the report comes last, when its pictures are there.

    Each file is written whole or not at all.
    """
    plots = write_plots(plan_plots(plan), directory)
    if findings is not None:
        plots += _risk_plots(findings, directory)
    data, report = directory / JSON_FILE, directory / MARKDOWN_FILE
    _write(data, plan_json(plan, None if findings is None else findings.risk))
    _write(report, markdown_report(plan, findings, plots=[path.name for path in plots], further=further))
    return [data, report, *plots]


def _risk_plots(findings: Findings, directory: Path) -> list[Path]:
    names = ("risk-cost", "risk-tornado", "timeline", "returns")
    cost, tornado, timeline, returns = (directory / f"{name}.png" for name in names)
    plot_cost(findings.risk.project, cost, f"{findings.risk.option}: what the project may cost")
    plot_tornado(findings.sensitivity, tornado)
    plot_gantt(findings.timeline, timeline)
    plot_returns(findings.returns, returns, findings.risk.project)
    return [cost, tornado, timeline, returns]


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())
