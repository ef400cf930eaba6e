"""What one task of an evaluation hands back, and its form in the task's completion marker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.evaluation.items import ItemScores

Figures = dict[str, Any]


@dataclass(frozen=True)
class TaskResult:
    """`figures` go into `evaluation.json` and must be the same every time; what depends on the machine is `timings`.

    `metrics`, `tables`, `statistics` and `items` join those of the other tasks.
    """

    figures: Figures = field(default_factory=dict)
    timings: Figures = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    statistics: Figures = field(default_factory=dict)
    items: list[ItemScores] = field(default_factory=list)

    def to_json(self) -> Figures:
        """Plain values, from which `from_json` makes an equal result."""
        return {
            "figures": self.figures,
            "timings": self.timings,
            "metrics": self.metrics,
            "tables": self.tables,
            "statistics": self.statistics,
            "items": [_plain(scores) for scores in self.items],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TaskResult:
        """What `to_json` wrote."""
        return cls(
            content["figures"],
            content["timings"],
            content["metrics"],
            content["tables"],
            content["statistics"],
            [_scores(one) for one in content["items"]],
        )


def _plain(scores: ItemScores) -> Figures:
    return {
        "task": scores.task,
        "metric": scores.metric,
        "higher_is_better": scores.higher_is_better,
        "items": list(scores.items),
        "values": scores.values.tolist(),
        "weights": scores.weights.tolist(),
    }


def _scores(content: Mapping[str, Any]) -> ItemScores:
    return ItemScores(
        content["task"],
        content["metric"],
        content["higher_is_better"],
        tuple(content["items"]),
        np.array(content["values"], np.float64),
        np.array(content["weights"], np.float64),
    )
