"""Gates: the table of metric, threshold, value and verdict that decides whether a model may be promoted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Gate(BaseModel):
    """One condition on one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    metric: str = Field(description="name of the metric, such as eval/bits_per_byte")
    condition: Literal["below", "above", "finite"] = Field(description="what must hold of the metric's value")
    threshold: float | str | None = Field(
        default=None, description="a number, or the name of the metric to compare with; not used by 'finite'"
    )


class Verdict(StrEnum):
    """What came of a gate. A metric that was not measured is `not run`, never a pass or a zero."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class GateRow:
    """One row of the gate table; `value` and `threshold` are None where nothing was measured."""

    metric: str
    condition: str
    threshold: float | None
    value: float | None
    verdict: Verdict

    def as_row(self) -> dict[str, Any]:
        """The row for people and JSON; a value that is not finite becomes its name."""
        row = asdict(self) | {"verdict": self.verdict.value}
        return {key: str(item) if isinstance(item, float) and not math.isfinite(item) else item
                for key, item in row.items()}  # fmt: skip


def judge(gates: Iterable[Gate], metrics: Mapping[str, float]) -> list[GateRow]:
    """The verdict on every gate, in their order."""
    return [_judge_one(gate, metrics) for gate in gates]


def all_passed(rows: Iterable[GateRow]) -> bool:
    """Whether a model with these verdicts may be promoted: every gate was measured and passed."""
    return all(row.verdict is Verdict.PASSED for row in rows)


def _judge_one(gate: Gate, metrics: Mapping[str, float]) -> GateRow:
    value = metrics.get(gate.metric)
    threshold, condition = gate.threshold, gate.condition
    if isinstance(threshold, str):
        condition_text, threshold = f"{condition} {threshold}", metrics.get(threshold)
    else:
        condition_text = str(condition)
    if value is None or (threshold is None and condition != "finite"):
        return GateRow(gate.metric, condition_text, threshold, value, Verdict.NOT_RUN)
    passed = math.isfinite(value)
    if condition != "finite":
        assert threshold is not None
        passed = passed and (value < threshold if condition == "below" else value > threshold)
    return GateRow(gate.metric, condition_text, threshold, value, Verdict.PASSED if passed else Verdict.FAILED)
