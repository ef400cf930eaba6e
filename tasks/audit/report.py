"""The audit as Markdown and as JSON."""

from __future__ import annotations

import math
from typing import Any

from tasks.audit.claims import Document, published_checked_on
from tasks.audit.figures import Sense
from tasks.audit.rows import Audit, Row
from tasks.audit.spans import Span
from tasks.audit.verdicts import APPROXIMATE_ROUNDING, ROUNDING, Kind

COSTLIEST_SHOWN = 10
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
#: Beyond this an exponent is easier to read than more letters.
_LARGEST_SCALED = 1e15
#: Significant digits that are shown.
_DIGITS, _DIGITS_OF_RANGES = 4, 3
_SENSES = {Sense.AT_MOST: "at most", Sense.AT_LEAST: "at least", Sense.EQUAL: "exactly"}
_EMPHASISED = (Kind.WRONG, Kind.INCONSISTENT)

_HEAD = """# The founding documents' figures, checked

Written by `sam2 audit`; do not edit. `sam2 audit --check` and a test fail when it is not what the code gives.
The claims and the quantities they are checked with are data (`tasks/audit/data`); every verdict is computed.

{rows} checks of {figures} figures in {documents} documents. A figure may have several rows: as written, against another
figure of the documents, and against what the code's own models, published sources or measurements give. Where an
assumption decides, the recomputed figure is a range, and the stated one is called wrong only when it lies outside.
"""

_VERDICTS = """
- **confirmed**: equal to the last written digit; or inside the recomputed range; or the bound holds.
- **rounded**: off by no more than {rounding:.0%} ({approximate:.0%} where the document writes "~"), or by the row's own
  tolerance.
- **partly**: a bound that holds in a part of the recomputed range only.
- **wrong**: off by more; the factor is the larger figure over the smaller one, nearest ends.
- **inconsistent**: wrong, and recomputed from nothing but other figures of the documents, which are named.
- **not checkable**: neither arithmetic nor code nor a source decides; the row says what would.
"""


def as_markdown(audit: Audit) -> str:
    """The whole report."""
    parts = [
        _HEAD.format(rows=len(audit.rows), figures=audit.figures, documents=len(audit.documents)),
        _summary(audit),
        _costliest(audit),
        *(_document(audit, document) for document in audit.documents),
        _assumptions(audit),
        _left_out(audit),
    ]
    return "\n".join(parts)


def as_data(audit: Audit) -> dict[str, Any]:
    """The same for programs."""
    return {
        "counts": {kind.value: audit.count(kind) for kind in Kind},
        "costliest": [row.name for row in audit.costliest(COSTLIEST_SHOWN)],
        "claims": [_row_data(row) for row in audit.rows],
        "quantities": {
            used.quantity.name: {"low": used.value.low, "high": used.value.high, "unit": used.quantity.unit}
            for used in audit.quantities
        },
    }


def shown(value: Span, unit: str) -> str:
    """A value in its unit as people read it: 1.33B parameters, $6,048, 31.6%, 6.37 to 10.6 weeks."""
    digits = _DIGITS if value.is_point else _DIGITS_OF_RANGES
    low, high = _number(value.low, unit, digits), _number(value.high, unit, digits)
    amount = low if low == high else f"{low} to {high}"
    if unit == "USD":
        return amount
    return f"{amount}{'' if unit == '%' else ' '}{unit}".rstrip()


def shown_stated(row: Row) -> str:
    """The figure as the document has it, with what it is read as where its text does not say so."""
    claim = row.claim
    figure = claim.figure.strip("|* ")
    if claim.formula is None:
        return figure
    sense = _SENSES[claim.sense] if claim.sense else ""
    amount = shown(claim.stated.amount, claim.unit) if claim.value is not None else ""
    read_as = f"{sense} {amount}".strip()
    return f"{figure} (read as {read_as})" if read_as else figure


def _number(value: float, unit: str, digits: int) -> str:
    if unit == "USD":
        return _dollars(value)
    size = abs(value)
    if size >= _LARGEST_SCALED:
        return f"{value:.3g}"
    for scale, letter in _SCALES:
        if size >= scale:
            return f"{value / scale:.{digits}g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if size >= 1e-4 or size == 0 else f"{value:.1e}"


def _dollars(value: float) -> str:
    sign, size = "-" if value < 0 else "", abs(value)
    if size >= 1000:
        return f"{sign}${size:,.0f}"
    if size >= 1 or size == 0:
        return f"{sign}${size:,.2f}".removesuffix(".00")
    return f"{sign}${size:.{1 - math.floor(math.log10(size))}f}"


def _summary(audit: Audit) -> str:
    kinds = list(Kind)
    lines = [
        "## Summary",
        "",
        "| document | checks | " + " | ".join(kind.value for kind in kinds) + " |",
        "|---|--:|" + "--:|" * len(kinds),
    ]
    for document in audit.documents:
        counts = [audit.count(kind, document.document) for kind in kinds]
        lines.append(_table_row(f"{document.document} {document.title} ({document.dated})", sum(counts), *counts))
    counts = [audit.count(kind) for kind in kinds]
    lines.append(_table_row("**all**", *(f"**{count}**" for count in (sum(counts), *counts))))
    return "\n".join(lines) + "\n" + _VERDICTS.format(rounding=ROUNDING, approximate=APPROXIMATE_ROUNDING)


def _costliest(audit: Audit) -> str:
    lines = [
        f"## The {COSTLIEST_SHOWN} that matter most for money",
        "",
        "By how many dollars the stated and the recomputed figure lie apart (nearest ends, hours at the documents' own",
        "prices); of claims that rest on the same mistake, the largest.",
        "",
        "| claim | | stated | recomputed | apart |",
        "|---|---|---|---|--:|",
    ]
    for row in audit.costliest(COSTLIEST_SHOWN):
        assert row.recomputed is not None
        assert row.effect_usd is not None
        lines.append(
            _table_row(
                row.name, row.claim.claim, shown_stated(row), shown(row.recomputed, row.claim.unit),
                _dollars(round(row.effect_usd)),
            )
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _assumptions(audit: Audit) -> str:
    lines = [
        "## What the recomputed figures rest on",
        "",
        f"Prices are those of the catalog of {audit.prices_as_of} (`infra/budget/catalog.yaml`, each with its day and",
        "source), unless a formula takes them from the documents. Published figures were looked up on "
        f"{published_checked_on()}.",
        "",
        "| name in the formulas | value | what it is | basis, source |",
        "|---|---|---|---|",
    ]
    for used in audit.quantities:
        quantity = used.quantity
        source = f"`{quantity.formula}`" if quantity.basis == "derived" else quantity.file or quantity.source
        lines.append(
            _table_row(
                f"`{quantity.name}`", shown(used.value, quantity.unit), quantity.meaning,
                ", ".join(part for part in (quantity.basis, source) if part),
            )
        )  # fmt: skip
    lines += ["", "| function | gives |", "|---|---|"]
    lines += [_table_row(f"`{name}`", gives) for name, gives in sorted(audit.functions.items())]
    return "\n".join(lines) + "\n"


def _document(audit: Audit, document: Document) -> str:
    lines = [f"## {document.document} {document.title}", ""]
    for section in document.sections:
        rows = audit.of_section(document.document, section.section)
        lines += [
            f"### {section.section}",
            "",
            "| id | claim | stated | recomputed | verdict | formula; what it rests on |",
            "|---|---|---|---|---|---|",
            *(_claim_row(row) for row in rows),
            "",
        ]
    return "\n".join(lines)


def _left_out(audit: Audit) -> str:
    lines = [
        "## Left out",
        "",
        "Every other line of the documents with a number in it, commands and configuration files aside, is one of",
        "these (a test goes through the documents line by line where they are at hand):",
        "",
        "| document | why | lines that contain |",
        "|---|---|---|",
    ]
    for document in audit.documents:
        lines += [
            _table_row(document.document, left_out.reason, "; ".join(f"`{line}`" for line in left_out.lines))
            for left_out in document.left_out
        ]
    return "\n".join(lines) + "\n"


def _claim_row(row: Row) -> str:
    if row.recomputed is None:
        why = f"{row.claim.reason}. Would check it: {row.claim.would_check}."
        return _table_row(row.claim.id, row.claim.claim, shown_stated(row), "–", row.verdict.text, why)
    note = f" {row.claim.note}" if row.claim.note else ""
    verdict = f"**{row.verdict.text}**" if row.verdict.kind in _EMPHASISED else row.verdict.text
    return _table_row(
        row.claim.id, row.claim.claim, shown_stated(row), shown(row.recomputed, row.claim.unit), verdict,
        f"`{row.claim.formula}`; {', '.join(row.rests_on)}.{note}",
    )  # fmt: skip


def _table_row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def _row_data(row: Row) -> dict[str, Any]:
    claim = row.claim
    recomputed = None if row.recomputed is None else {"low": row.recomputed.low, "high": row.recomputed.high}
    return {
        "id": row.name,
        "section": row.section,
        "claim": claim.claim,
        "figure": claim.figure,
        "unit": claim.unit,
        "recomputed": recomputed,
        "verdict": row.verdict.kind.value,
        "factor": row.verdict.factor,
        "stated_is": row.verdict.stated_is or None,
        "against": list(row.verdict.against),
        "formula": claim.formula,
        "rests_on": list(row.rests_on),
        "effect_usd": row.effect_usd,
        "reason": claim.reason or None,
        "would_check": claim.would_check or None,
    }
