"""Gate rows and results item by item, for the registration's tests."""

from __future__ import annotations

import numpy as np

from tasks.evaluation.items import ItemScores, item_key

PASSED = {"metric": "eval/loss", "condition": "finite", "threshold": None, "value": 3.2, "verdict": "passed"}
FAILED = {
    "metric": "eval/bits_per_byte",
    "condition": "below eval/baseline_5gram_bits_per_byte",
    "threshold": 2.1,
    "value": 2.4,
    "verdict": "failed",
}


def answered(right: int, *, of: int = 200, task: str = "piqa") -> list[ItemScores]:
    """An evaluation that got the first `right` of `of` questions right."""
    keys = tuple(item_key(task, str(number)) for number in range(of))
    return [ItemScores(task, "accuracy", True, keys, (np.arange(of) < right).astype(float), np.ones(of))]
