"""Claims against the documents they are about, where these are at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.audit import Document, load_documents, load_quantities
from tests.tasks.audit.founding_documents import Line, lines_of

ROOT = Path(__file__).parents[3]
# Digits that count nothing: versions in names, the numbers of lists, phases and weeks.
_NAMES = re.compile(
    r"HGRN-2|GPT-3|SAM 2\.0|[Pp]hase \d(?:-\d)?|\*\*Week \d\*\*|^\s*\d+\. |ZeRO-\d|BF16|FP16|FP32|Q4_K_M|Attention 2"
)

_BY_TITLE = pytest.mark.parametrize("document", load_documents(), ids=lambda document: document.document)


@_BY_TITLE
def test_every_claimed_figure_stands_in_its_section(document: Document) -> None:
    lines = lines_of(document.file)
    for section in document.sections:
        texts = [line.text for line in lines if section.section in line.heading]
        assert texts, f"{document.document} has no section '{section.section}'"
        for claim in section.claims:
            assert any(claim.figure in text for text in texts), f"{document.document}.{claim.id}: '{claim.figure}'"


@_BY_TITLE
def test_every_line_with_a_number_is_checked_or_left_out_with_a_reason(document: Document) -> None:
    unaccounted = [line for line, known in _accounts(document) if not known]
    assert not unaccounted, "\n".join(f"{line.number}: {line.text}" for line in unaccounted)


@_BY_TITLE
def test_nothing_is_left_out_that_needs_no_leaving_out(document: Document) -> None:
    only = {next(iter(known)) for _, known in _accounts(document) if len(known) == 1}
    for entry in document.left_out:
        for text in entry.lines:
            assert text in only, text


def _accounts(document: Document) -> Iterator[tuple[Line, set[str]]]:
    """Each line with a number, and the claimed figures of its section or left-out texts that stand in it."""
    left_out = {text for entry in document.left_out for text in entry.lines}
    for line in lines_of(document.file):
        if line.is_command or line.text == line.heading or not re.search(r"\d", _NAMES.sub("", line.text)):
            continue
        own = {
            claim.figure for section in document.sections if section.section in line.heading for claim in section.claims
        }
        yield line, {known for known in own | left_out if known in line.text}


def test_measured_quantities_stand_in_the_file_they_are_said_to_be_from() -> None:
    quoted = [quantity for quantity in load_quantities().values() if quantity.file]
    assert len(quoted) > 5
    for quantity in quoted:
        assert quantity.file is not None
        assert quantity.quote is not None
        text = " ".join((ROOT / quantity.file).read_text(encoding="utf-8").split())
        assert quantity.quote in text, quantity.name
