"""Whether a model may become champion: every gate of its evaluation was measured and passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.artifacts import Manifest


@dataclass(frozen=True)
class Decision:
    """The gate rows and what follows from them."""

    rows: tuple[dict[str, Any], ...]
    missed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True only when there are gates and none was missed."""
        return bool(self.rows) and not self.missed

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        if not self.rows:
            return "No gate was judged."
        if self.passed:
            return f"All {len(self.rows)} gates passed."
        return f"Not passed: {'; '.join(self.missed)}."


def decide(manifest: Manifest) -> Decision:
    """Read the table `gates` of an evaluation, or of a bundle that carries it on."""
    rows = tuple(manifest.tables.get("gates", []))
    missed = tuple(_describe(row) for row in rows if row.get("verdict") != "passed")
    return Decision(rows, missed)


def _describe(row: dict[str, Any]) -> str:
    value = row.get("value")
    measured = "not measured" if value is None else f"is {value:.4g}" if isinstance(value, float) else f"is {value}"
    limit = row.get("threshold")
    bound = f" (limit {limit:.4g})" if isinstance(limit, float) else ""
    return f"{row.get('metric')} {measured}, must be {row.get('condition')}{bound}"
