"""The founding documents, which lie beside the repository where it was written, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parents[4] / "shared" / "seeds"


@dataclass(frozen=True)
class Line:
    """A line of a document, under its nearest heading. `is_command`: inside a block of code of some language."""

    number: int
    text: str
    heading: str
    is_command: bool


def lines_of(file: str) -> list[Line]:
    """A document's lines; the test is skipped where the documents are not."""
    path = DIRECTORY / file
    if not path.is_file():
        pytest.skip(f"the founding documents are not beside this checkout ({DIRECTORY})")
    return list(_lines(path.read_text(encoding="utf-8")))


def _lines(text: str) -> Iterator[Line]:
    heading, fence = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("```"):
            fence = line.removeprefix("```") if fence is None else None
        elif fence is None and re.match(r"#+ ", line):
            heading = line
        yield Line(number, line, heading, bool(fence))
