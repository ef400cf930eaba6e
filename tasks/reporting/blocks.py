"""What a section of the report is made of. The template draws one macro a block kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from tasks.reporting.formatting import NOT_KNOWN, column, heading

#: Words that are verdicts wherever they appear in a table.
TONES = {
    "pass": "good", "passed": "good", "completed": "good", "ok": "good", "reused": "quiet", "built": "plain",
    "fail": "bad", "failed": "bad", "blocked": "bad", "not run": "quiet", "not_run": "quiet",
    "accepted": "good", "refused": "bad", "original": "quiet",
}  # fmt: skip
_VERDICT_COLUMNS = ("verdict", "passed", "status", "outcome")
_MAXIMUM_ROWS = 60
_MAXIMUM_CELL_CHARACTERS = 400
#: Up to this many characters a cell stays on one line.
_LONGEST_WORDS = 30


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `tone` marks a verdict, `prose` a text that may wrap."""

    text: str
    numeric: bool = False
    tone: str = ""
    prose: bool = False


@dataclass(frozen=True)
class Table:
    """Rows for people. `dropped` rows were left out for length; a `folded` table repeats what a chart shows."""

    kind: ClassVar[str] = "table"
    title: str
    columns: list[Cell]
    rows: list[list[Cell]]
    dropped: int = 0
    folded: bool = False
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """A short list of named figures."""

    kind: ClassVar[str] = "facts"
    items: list[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: `start` and `length` in percent of the track."""

    label: str
    value: str
    length: float
    start: float = 0.0
    tone: str = "accent"
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars over one common scale."""

    kind: ClassVar[str] = "bars"
    title: str
    bars: list[Bar]
    note: str = ""


@dataclass(frozen=True)
class Span:
    """A bar with the interval and the mark it was expected in, all in percent of the track; None: not expected."""

    label: str
    value: str
    length: float
    low: float | None
    high: float | None
    mark: float | None
    told: str
    tone: str = "accent"


@dataclass(frozen=True)
class Spans:
    """Bars over the intervals they were expected in, on one scale."""

    kind: ClassVar[str] = "spans"
    title: str
    spans: list[Span]
    note: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A grid of shares in 0..1; a None cell was not measured."""

    kind: ClassVar[str] = "heat_map"
    title: str
    row_title: str
    column_title: str
    columns: list[str]
    rows: list[tuple[str, list[float | None]]]
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """An SVG drawn twice, for wide and for narrow screens, so that its text keeps its size."""

    kind: ClassVar[str] = "chart"
    title: str
    wide: Markup
    narrow: Markup
    note: str = ""


@dataclass(frozen=True)
class ChartRow:
    """Small charts side by side."""

    kind: ClassVar[str] = "chart_row"
    charts: list[Chart]


@dataclass(frozen=True)
class Image:
    """A picture from an artifact, embedded as a data URI."""

    kind: ClassVar[str] = "image"
    title: str
    data_uri: str


@dataclass(frozen=True)
class Document:
    """A piece of text shown as it is, with what is known of it."""

    text: str
    label: str
    tone: str = "quiet"
    detail: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Documents:
    """Texts side by side."""

    kind: ClassVar[str] = "documents"
    title: str
    documents: list[Document]


@dataclass(frozen=True)
class Note:
    """A sentence, toned when it is a warning."""

    kind: ClassVar[str] = "note"
    text: str
    tone: str = "quiet"


@dataclass(frozen=True)
class Code:
    """Something to copy."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class LinkList:
    """Addresses to open."""

    kind: ClassVar[str] = "links"
    links: list[tuple[str, str]]


Block = Table | Facts | Bars | Spans | HeatMap | Chart | ChartRow | Image | Documents | Note | Code | LinkList


@dataclass(frozen=True)
class Section:
    """A titled part of the report; an empty one says why."""

    anchor: str
    title: str
    lede: str = ""
    blocks: list[Block] = field(default_factory=list)


def table(title: str, rows: Sequence[Mapping[str, Any]], *, folded: bool = False, note: str = "") -> Table:
    """A table of any rows: columns in the order they first appear, figures aligned by column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name: _is_numeric([row.get(name) for row in rows]) for name in names}
    columns = [Cell(heading(name), numeric[name]) for name in names]
    shown = [_column(name, [row.get(name) for row in rows[:_MAXIMUM_ROWS]], numeric[name]) for name in names]
    by_row = [list(cells) for cells in zip(*shown, strict=True)]
    return Table(title, columns, by_row, max(0, len(rows) - _MAXIMUM_ROWS), folded, note)


def _is_numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value not in (None, "")]
    return bool(known) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)


def _column(name: str, values: Sequence[Any], numeric: bool) -> list[Cell]:
    if name.lower() in _VERDICT_COLUMNS:
        return [verdict_cell(value) for value in values]
    texts = column(name, values)
    prose = max((len(text) for text in texts), default=0) > _LONGEST_WORDS
    return [Cell(_shortened(text), numeric, prose=prose) for text in texts]


def _shortened(text: str) -> str:
    return text if len(text) <= _MAXIMUM_CELL_CHARACTERS else text[:_MAXIMUM_CELL_CHARACTERS] + "…"


def verdict_cell(value: Any) -> Cell:
    """pass, fail and not run, whatever spelling or boolean a stage used."""
    if value is None or value == "":
        return Cell("not run", tone="quiet")
    text = ("pass" if value else "fail") if isinstance(value, bool) else str(value)
    return Cell(text.replace("_", " "), tone=TONES.get(text.lower(), ""))


def bars(
    title: str, entries: Sequence[tuple[str, float | None, str]], *, tones: Sequence[str] = (), note: str = ""
) -> Bars:
    """Bars from zero to the largest value; an entry without a value says so instead of drawing none."""
    largest = max((value for _, value, _ in entries if value is not None), default=0.0) or 1.0
    drawn = []
    for index, (label, value, text) in enumerate(entries):
        tone = tones[index] if tones else "accent"
        length = 0.0 if value is None else 100 * value / largest
        drawn.append(Bar(label, NOT_KNOWN if value is None else text, length, tone=tone))
    return Bars(title, drawn, note)
