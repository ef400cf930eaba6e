"""`sam2 audit`: the founding documents' figures, recomputed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from tasks.audit import Audit

REPORT = Path(__file__).parents[1] / "docs" / "seed-audit.md"
_COSTLIEST_SHOWN = 10

console = Console(highlight=False)


def add_audit_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command("audit")(audit)


def audit(
    output: Annotated[Path, typer.Option(help="The report.", show_default="docs/seed-audit.md")] = REPORT,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the report is not what the code gives.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; writes nothing.")] = False,
) -> None:
    """Recompute every figure of the founding documents and write the comparison.

    Claims and what they are checked with are data in tasks/audit/data; prices are those of the shipped catalog.
    """
    from infra.errors import ConfigurationError
    from infra.storage.local import atomic_file
    from tasks.audit import as_data, as_markdown, run_audit

    found = run_audit()
    if as_json:
        console.print_json(data=as_data(found))
        return
    text = as_markdown(found)
    if check:
        if not output.is_file() or output.read_text(encoding="utf-8") != text:
            raise ConfigurationError(f"'{output}' is not what the code gives.", "run `sam2 audit` and commit it.")
        console.print(f"{escape(str(output))} is what the code gives: {len(found.rows)} checks.")
        return
    with atomic_file(output) as stream:
        stream.write(text.encode())
    _show(found)
    console.print(escape(str(output)))


def _show(found: Audit) -> None:
    from tasks.audit import Kind
    from tasks.audit.report import shown, shown_stated

    counts = Table("verdict", *(document.document for document in found.documents), "all", box=None)
    for kind in Kind:
        numbers = [found.count(kind, document.document) for document in found.documents]
        counts.add_row(kind.value, *map(str, numbers), str(sum(numbers)))
    console.print(counts)
    costliest = Table(
        Column("the costliest", no_wrap=True),
        "stated",
        "recomputed",
        Column("apart, USD", justify="right", no_wrap=True),
        box=None,
    )
    for row in found.costliest(_COSTLIEST_SHOWN):
        if row.recomputed is not None and row.effect_usd is not None:
            costliest.add_row(
                escape(row.name),
                escape(shown_stated(row)),
                escape(shown(row.recomputed, row.claim.unit)),
                f"{row.effect_usd:,.0f}",
            )
    console.print(costliest)
