"""`sam2 spend`: every dollar of the ledger, by whatever one asks, against the ceiling."""

from __future__ import annotations

import csv
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from flows.spending_report import SpendReport

console = Console(highlight=False)

_WIDEST_BAR, _NARROWEST_BAR = 24, 6
_FIGURES_WIDTH = 52
_NO_LIMIT = 1000
_DAYS = ["%Y-%m-%d"]


def add_spending_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command()(spend)


def spend(
    by: Annotated[str, typer.Option(help="run, stage, provider, day, profile, outcome or machine.")] = "stage",
    run: Annotated[
        str | None, typer.Option(help="Only one run: its name, its id or the beginning of it, or `latest`.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Only the runs of one profile.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=_DAYS, help="First day (UTC), e.g. 2026-03-01.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=_DAYS, help="Last day (UTC), included.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this PNG file.")] = None,
) -> None:
    """Show what has been spent: every attempt of every stage, failed and interrupted ones too.

    An attempt that ran over midnight (UTC) is charged to each of its days. `wasted` is what attempts took that failed
    or were interrupted; what a later attempt continued from their checkpoints is not taken off.
    """
    from flows.spending_report import SpendQuestion, spend_report
    from infra.errors import ConfigurationError
    from infra.stack import StackSettings

    if as_json and as_csv:
        raise ConfigurationError("--json and --csv are two forms of one answer.", "choose one of them.")
    question = SpendQuestion(by, run, profile, since and since.date(), until and until.date())
    report = spend_report(StackSettings.from_environment().home, question)
    if plot is not None:
        from flows.spending_plot import plot_spending

        plot_spending(report, plot)
    if as_json:
        console.print_json(data=report.as_json())
    elif as_csv:
        _write_csv(report)
    else:
        _show(report)
        if plot is not None:
            console.print(escape(str(plot)), soft_wrap=True)


def _write_csv(report: SpendReport) -> None:
    columns = [report.question.by, "name", "attempts", "seconds", "usd", "wasted_usd"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.row_as_json(row) for row in report.rows)


def _show(report: SpendReport) -> None:
    if not report.rows:
        console.print("Nothing has been spent" + (" in these days." if _has_days(report) else " yet."))
    else:
        table = _table(report)
        # Names are never cut: where they do not fit, lines are longer than the terminal.
        wanted = console.measure(table, options=console.options.update(width=_NO_LIMIT)).maximum
        Console(highlight=False, width=max(console.width, wanted)).print(table)
    if report.ceiling_usd is not None:
        _show_ceiling(report)
    if report.damaged_lines:
        console.print(f"[yellow]{report.damaged_lines} lines of the ledger fail their checksum and were left out.[/]")
    if report.unpriced_attempts:
        console.print(
            f"[yellow]{report.unpriced_attempts} attempts have lost their price with them: the total lacks theirs.[/]"
        )


def _has_days(report: SpendReport) -> bool:
    return report.question.since is not None or report.question.until is not None


def _table(report: SpendReport) -> Table:
    places = _places(report.total.usd)
    largest = max(row.usd for row in report.rows)
    bar_width = _bar_width(report)
    table = Table(box=None, header_style="bold")
    table.add_column(report.question.by, no_wrap=True)
    table.add_column("", width=bar_width, no_wrap=True)
    for name in ("share", "attempts", "seconds", report.currency, "wasted"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            escape(report.labels[row.key]),
            Bar(1.0, 0.0, round(row.usd / largest, 9) if largest else 0.0, width=bar_width, color="cyan"),
            f"{row.usd / report.total.usd:.1%}" if report.total.usd else "",
            f"{row.attempts:,}",
            f"{row.seconds:,.1f}",
            f"{row.usd:,.{places}f}",
            f"[red]{row.wasted_usd:,.{places}f}[/]" if row.wasted_usd else "",
        )
    total = report.total
    table.add_section()
    table.add_row(
        "total", "", "", f"{total.attempts:,}", f"{total.seconds:,.1f}", f"{total.usd:,.{places}f}",
        f"{total.wasted_usd:,.{places}f}" if total.wasted_usd else "", style="bold",
    )  # fmt: skip
    return table


def _bar_width(report: SpendReport) -> int:
    names = max(len(report.labels[row.key]) for row in report.rows)
    return max(_NARROWEST_BAR, min(_WIDEST_BAR, console.width - names - _FIGURES_WIDTH))


def _show_ceiling(report: SpendReport) -> None:
    """All that the profile has spent against its ceiling, whatever part of it the table shows."""
    assert report.ceiling_usd is not None
    share = report.profile_usd / report.ceiling_usd
    colour = "red" if share >= 1 else "yellow" if share > 0.8 else "green"
    places = _places(report.ceiling_usd)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        f"profile '{escape(str(report.profile))}'",
        Bar(1.0, 0.0, min(1.0, share), width=_WIDEST_BAR, color=colour, bgcolor="grey23"),
        f"{report.profile_usd:,.{places}f} of its ceiling of {report.ceiling_usd:,.{places}f} {report.currency}"
        f" ({share:.0%})",
    )
    console.print(grid)


def _places(usd: float) -> int:
    """Decimals that show cents of a large sum and something of a small one."""
    return 2 if usd >= 10 else 4 if usd >= 0.1 else 6
