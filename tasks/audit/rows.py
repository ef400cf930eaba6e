"""What an audit found: its rows, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from infra.errors import ConfigurationError
from tasks.audit.claims import Claim, Document, Quantity
from tasks.audit.spans import Span
from tasks.audit.verdicts import Kind, Verdict


@dataclass(frozen=True)
class Row:
    """One claim with what came out. `rests_on`: arithmetic, documents, model, published, measured, catalog, ..."""

    document: str
    section: str
    claim: Claim
    verdict: Verdict
    recomputed: Span | None = None
    rests_on: tuple[str, ...] = ()
    effect_usd: float | None = None

    @property
    def name(self) -> str:
        """Unique: document and id."""
        return f"{self.document}.{self.claim.id}"


@dataclass(frozen=True)
class UsedQuantity:
    """A named quantity that formulas used."""

    quantity: Quantity
    value: Span


@dataclass(frozen=True)
class Audit:
    """All rows, and what they rest on."""

    documents: tuple[Document, ...]
    rows: tuple[Row, ...]
    quantities: tuple[UsedQuantity, ...]
    functions: dict[str, str]  # what the functions that formulas used give, by name
    prices_as_of: date

    def of_section(self, document: str, section: str) -> tuple[Row, ...]:
        """The rows of one section."""
        return tuple(row for row in self.rows if (row.document, row.section) == (document, section))

    @property
    def figures(self) -> int:
        """Different figures that the rows are about."""
        return len({(row.document, row.section, row.claim.figure) for row in self.rows})

    def count(self, kind: Kind, document: str | None = None) -> int:
        """Rows of a verdict, of one document or all."""
        return sum(row.verdict.kind is kind and document in (None, row.document) for row in self.rows)

    def costliest(self, most: int) -> tuple[Row, ...]:
        """The mistakes that are worth most money, the largest first; one of each topic."""
        wrong = [row for row in self.rows if row.effect_usd]
        wrong.sort(key=lambda row: -(row.effect_usd or 0.0))
        by_topic: dict[str, Row] = {}
        for row in wrong:
            by_topic.setdefault(row.claim.topic or row.name, row)
        return tuple(by_topic.values())[:most]


def named(audit: Audit, name: str) -> Row:
    """The row of this name; raises ConfigurationError when there is none."""
    for row in audit.rows:
        if row.name == name:
            return row
    raise ConfigurationError(f"the audit has no claim '{name}'.", "see the first column of docs/seed-audit.md.")
