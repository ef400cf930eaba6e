"""One table, shown in a terminal, in Markdown and as rows: the same cells everywhere."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tasks.planning.presentation.report_table import ReportTable, markdown_table, plain_rows, rich_table

TABLE = ReportTable(
    key="stages",
    title="By stage",
    columns=("stage", "hours", "USD"),
    rows=(("foundation [4k]", "1,204", "$14,448"), ("a|b", "3", "$36"), ("all", "1,207", "$14,484")),
    note="Prices of a day.",
    emphasised=frozenset({2}),
)


def printed(table: ReportTable, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(rich_table(table))
    return stream.getvalue()


def test_the_terminal_shows_every_cell_and_takes_brackets_as_text() -> None:
    text = printed(TABLE)
    for cell in ("By stage", "foundation [4k]", "14,484", "Prices of a day."):
        assert cell in text


def test_figures_are_aligned_right() -> None:
    ends = {line.rstrip()[-7:] for line in printed(TABLE).splitlines() if "$" in line}
    assert ends == {"$14,448", "    $36", "$14,484"}


def test_markdown_escapes_what_would_end_a_cell_and_prints_totals_bold() -> None:
    lines = markdown_table(TABLE).splitlines()
    assert lines[1] == "|---|--:|--:|"
    assert "| a\\|b | 3 | $36 |" in lines
    assert "| **all** | **1,207** | **$14,484** |" in lines
    assert lines[-1] == "Prices of a day."


def test_a_shortened_table_says_how_much_is_left_out() -> None:
    shown = TABLE.first(1)
    assert len(shown.rows) == 1
    assert "2 more rows" in shown.note
    assert TABLE.first(3) is TABLE


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns, a row has 1"):
        ReportTable("x", "X", ("a", "b"), (("only one",),))


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=5))
def test_any_text_makes_a_table_of_as_many_rows(cells: list[tuple[str, str]]) -> None:
    table = ReportTable("any", "Any", ("a", "b"), tuple(cells))
    assert len(plain_rows(table)) == len(cells)
    body = markdown_table(table).split("\n")
    assert len(body) == 2 + len(cells)
    printed(table)
