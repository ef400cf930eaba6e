"""The figures of docs/planning.md's example are those that its code gives."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.risk import exact_interval

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "planning.md"


def test_the_example_gives_the_figures_that_are_told() -> None:
    section = DOCUMENT.read_text().partition("\n## Risk\n")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code.group(1), names)
    found, spot = names["found"], names["spot"]
    text = " ".join(section.split())
    cost, (short, long) = found.cost_usd, found.budgets
    assert f"between {cost.p05:,.0f} and {cost.p95:,.0f} USD" in text
    assert f"enough in {100 * short.probability:.1f} % of them, 30,000 in {100 * long.probability:.1f} %" in text
    assert f"{100 * long.low:.1f} to {100 * long.high:.1f}" in text
    best = exact_interval(spot.checkpoint_write_hours, 1 / spot.per_hour.mean)
    assert f"an interval of {60 * best:.1f} minutes instead of two hours" in text
