"""A table of a plan, made once and shown anywhere: in the terminal, in Markdown and in the Prefect UI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Alignment = Literal["left", "right"]


@dataclass(frozen=True)
class ReportTable:
    """Cells as people read them. `emphasised` are the numbers of rows to print bold: totals, the choice.

    key: lower case and dashes, the table's name for programs. note: one sentence below the table. words: columns that
    hold words, aligned left, beside the first; figures are aligned right.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    emphasised: frozenset[int] = frozenset()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a row of another length than the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.key}' has {len(self.columns)} columns, a row has {len(row)} cells")

    def alignment(self, column: int) -> Alignment:
        """Of the column with this number."""
        return "left" if column == 0 or self.columns[column] in self.words else "right"

    def first(self, rows: int) -> ReportTable:
        """The table with its first `rows` rows, and a note of how many are left out."""
        left_out = len(self.rows) - rows
        if left_out <= 0:
            return self
        note = " ".join(filter(None, [self.note, f"{left_out} more rows are in the report and in the JSON."]))
        return replace(self, rows=self.rows[:rows], note=note)


def rich_table(table: ReportTable) -> Group:
    """For the terminal: title, table without a frame, note. Only words after the first column break into lines."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(table.columns):
        words = number > 0 and table.alignment(number) == "left"
        shown.add_column(escape(column), justify=table.alignment(number), no_wrap=not words)
    for number, row in enumerate(table.rows):
        shown.add_row(*map(escape, row), style="bold" if number in table.emphasised else None)
    parts: list[RenderableType] = [Text(table.title, style="bold"), shown]
    if table.note:
        parts.append(Text(table.note, style="dim"))
    return Group(*parts)


def markdown_table(table: ReportTable) -> str:
    """As GitHub's Markdown, the note below it."""
    marks = ["---" if table.alignment(number) == "left" else "--:" for number in range(len(table.columns))]
    lines = [_line(table.columns), f"|{'|'.join(marks)}|"]
    for number, row in enumerate(table.rows):
        lines.append(_line([f"**{cell}**" if cell else "" for cell in map(_cell, row)] if number in table.emphasised
                           else [_cell(cell) for cell in row]))  # fmt: skip
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def plain_rows(table: ReportTable) -> list[dict[str, str]]:
    """Rows by column name, as Prefect's table artifacts take them."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
