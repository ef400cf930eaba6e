"""Whether a model may become champion: every gate of its evaluation was measured and passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.artifacts import Manifest
from tasks.registration.partial import PartialTraining

#: A bundle's statistic: `Decision.withheld`.
WITHHELD = "withheld"


@dataclass(frozen=True)
class Decision:
    """The gate rows and what follows from them; withheld: what keeps a model from passing whatever its gates say."""

    rows: tuple[dict[str, Any], ...]
    missed: tuple[str, ...]
    withheld: str = ""

    @property
    def passed(self) -> bool:
        """True only when there are gates and none was missed, and nothing else is in the way."""
        return bool(self.rows) and not self.objections

    @property
    def objections(self) -> tuple[str, ...]:
        """What speaks against the model."""
        return (self.withheld, *self.missed) if self.withheld else self.missed

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        if self.withheld:
            return f"{self.withheld[:1].upper()}{'; '.join(self.objections)[1:]}."
        if not self.rows:
            return "No gate was judged."
        if self.passed:
            return f"All {len(self.rows)} gates passed."
        return f"Not passed: {'; '.join(self.missed)}."


def decide(manifest: Manifest) -> Decision:
    """Read the table `gates` of an evaluation, or of a bundle that carries it on."""
    return _decision(manifest.tables.get("gates", []), str(manifest.statistics.get(WITHHELD, "")))


def decide_bundle(evaluation: Manifest | None, partial: PartialTraining | None) -> Decision:
    """The decision on a bundle that is being made; a model whose training was stopped early never passes."""
    rows = evaluation.tables.get("gates", []) if evaluation else []
    if partial is None:
        return _decision(rows, "")
    return _decision(rows, "stopped early" if evaluation else "not evaluated: stopped early")


def _decision(rows: Sequence[dict[str, Any]], withheld: str) -> Decision:
    missed = tuple(_describe(row) for row in rows if row.get("verdict") != "passed")
    return Decision(tuple(rows), missed, withheld)


def _describe(row: dict[str, Any]) -> str:
    value = row.get("value")
    measured = "not measured" if value is None else f"is {value:.4g}" if isinstance(value, float) else f"is {value}"
    limit = row.get("threshold")
    bound = f" (limit {limit:.4g})" if isinstance(limit, float) else ""
    return f"{row.get('metric')} {measured}, must be {row.get('condition')}{bound}"
