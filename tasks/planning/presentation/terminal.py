"""A plan in a terminal: the answer first, then tables that fit 100 columns, nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tasks.planning.plan import BudgetPlan
from tasks.planning.presentation.choices import choices
from tasks.planning.presentation.cost_tables import cost_table, option_table, stage_table
from tasks.planning.presentation.headline import Headline, headline
from tasks.planning.presentation.model_tables import flops_table, longest_context_table, memory_table, parameter_table
from tasks.planning.presentation.plan_risk import PlanRisk
from tasks.planning.presentation.report_table import ReportTable, rich_table
from tasks.planning.presentation.risk_tables import risk_table

_OPTIONS_SHOWN = 10
_WARNINGS_SHOWN = 3


def terminal_report(
    plan: BudgetPlan, risk: PlanRisk | None = None, further: tuple[ReportTable, ...] = ()
) -> RenderableType:
    """Everything `sam2 plan` prints. further: tables to end with, such as the ladder."""
    parts: list[RenderableType] = [_headline(headline(plan, risk))]
    for table in (*plan_tables(plan, risk), *further):
        parts += ["", rich_table(table)]
    warnings = list(_warnings(plan))
    if warnings:
        parts += ["", *warnings]
    return Group(*parts)


def plan_tables(plan: BudgetPlan, risk: PlanRisk | None) -> Iterator[ReportTable]:
    """The tables in the order of the questions: what does it cost, where, for what; and what is it made of."""
    named = choices(plan)
    if named is not None:
        yield option_table(plan, named.recommended).first(_OPTIONS_SHOWN)
        yield stage_table(plan, named.recommended)
        yield cost_table(named.recommended)
    if risk is not None:
        yield risk_table(risk)
    yield memory_table(plan)
    yield longest_context_table(plan)
    yield parameter_table(plan)
    yield flops_table(plan)


def _headline(found: Headline) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, sentence in found.lines:
        grid.add_row(escape(label), escape(sentence))
    return Group(Text(found.what, style="bold green" if found.is_good else "bold yellow"), grid)


def _warnings(plan: BudgetPlan) -> Iterator[Text]:
    for warning in plan.warnings[:_WARNINGS_SHOWN]:
        yield Text("\n".join(textwrap.wrap(f"! {warning}", 98, subsequent_indent="  ")), style="yellow")
    left_out = len(plan.warnings) - _WARNINGS_SHOWN
    if left_out > 0:
        yield Text(f"! {left_out} more warnings are in the report (--output) and in the JSON.", style="yellow")
