"""Claims against the documents they are about, where these are at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.audit import Document, load_documents, load_quantities
from tests.tasks.audit.founding_documents import lines_of

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
    figures = {section.section: [claim.figure for claim in section.claims] for section in document.sections}
    left_out = [text for entry in document.left_out for text in entry.lines]
    unaccounted = []
    for line in lines_of(document.file):
        if line.is_command or line.text == line.heading or not re.search(r"\d", _NAMES.sub("", line.text)):
            continue
        own = [figure for section, known in figures.items() if section in line.heading for figure in known]
        if not any(known in line.text for known in [*own, *left_out]):
            unaccounted.append(f"{line.number}: {line.text}")
    assert not unaccounted, "\n".join(unaccounted)


@_BY_TITLE
def test_nothing_is_left_out_that_is_not_there(document: Document) -> None:
    texts = [line.text for line in lines_of(document.file)]
    for entry in document.left_out:
        for wanted in entry.lines:
            assert any(wanted in text for text in texts), wanted


def test_measured_quantities_stand_in_the_file_they_are_said_to_be_from() -> None:
    quoted = [quantity for quantity in load_quantities().values() if quantity.file]
    assert len(quoted) > 5
    for quantity in quoted:
        assert quantity.file is not None
        assert quantity.quote is not None
        text = " ".join((ROOT / quantity.file).read_text(encoding="utf-8").split())
        assert quantity.quote in text, quantity.name
