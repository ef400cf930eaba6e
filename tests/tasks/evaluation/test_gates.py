"""Gates: verdicts against numbers, other metrics, and things that were not measured."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from tasks.evaluation.config import DEFAULT_GATES, EvaluationConfig
from tasks.evaluation.gates import Gate, Verdict, all_passed, judge

METRICS = {
    "eval/loss": 2.0,
    "eval/bits_per_byte": 1.4,
    "eval/baseline_unigram_bits_per_byte": 4.6,
    "eval/baseline_5gram_bits_per_byte": 2.0,
}


def verdicts(metrics: dict[str, float], *gates: Gate) -> list[Verdict]:
    return [row.verdict for row in judge(gates or DEFAULT_GATES, metrics)]


def test_a_better_model_passes_the_default_gates() -> None:
    assert all_passed(judge(DEFAULT_GATES, METRICS))


def test_a_model_worse_than_the_5gram_fails_that_gate_alone() -> None:
    rows = judge(DEFAULT_GATES, METRICS | {"eval/bits_per_byte": 2.5})
    assert [row.verdict for row in rows] == [Verdict.PASSED, Verdict.PASSED, Verdict.FAILED]
    assert rows[2].threshold == 2.0
    assert rows[2].value == 2.5
    assert "eval/baseline_5gram_bits_per_byte" in rows[2].condition


def test_what_was_not_measured_is_not_run_and_does_not_pass() -> None:
    gate = Gate(metric="eval/mmlu/accuracy", condition="above", threshold=0.3)
    assert verdicts(METRICS, gate) == [Verdict.NOT_RUN]
    assert not all_passed(judge([gate], METRICS))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_fails(value: float) -> None:
    rows = judge(DEFAULT_GATES, METRICS | {"eval/loss": value})
    assert rows[0].verdict is Verdict.FAILED
    assert rows[0].as_row()["value"] == str(value)


def test_impossible_windows_and_needles_are_refused_with_the_fix() -> None:
    with pytest.raises(ValidationError, match="window_overlap_tokens"):
        EvaluationConfig(context_tokens=128, window_overlap_tokens=128)
    with pytest.raises(ValidationError, match=r"needle\.lengths \[4096\]"):
        EvaluationConfig(needle={"lengths": [4096]})
    with pytest.raises(ValidationError):
        EvaluationConfig(unknown=1)
