"""Questions and decisions on disk, answers and what is wrong with them, and the share of training the money buys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from tasks.forecasting import Basis, Forecast, StageEstimate
from tasks.guard import Choice, DecisionLog, Question, fitting_share
from tasks.guard.answers import BudgetAnswer, answer_problem, question_text
from tasks.guard.fitting import scaled


def forecast(training_usd: float = 100.0, evaluation_usd: float = 10.0, spent_usd: float = 20.0) -> Forecast:
    def estimate(name: str, usd: float) -> StageEstimate:
        return StageEstimate(
            name=name, title=name.title(), seconds=usd, usd=usd, relative_error=0.1, basis=Basis.CALIBRATED
        )

    return Forecast(
        spent_usd=spent_usd, stages=(estimate("training", training_usd), estimate("evaluation", evaluation_usd))
    )


def ask(log: DecisionLog, done_steps: int | None = 12) -> Question:
    return log.ask(stage="training", done_steps=done_steps, reason="too dear", ceiling_usd=100.0, forecast=forecast())


def test_questions_and_decisions_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "decisions.jsonl"
    log = DecisionLog(path)
    assert log.open_question is None
    question = ask(log)
    assert DecisionLog(path).open_question == question
    decision = log.decide(Choice.SHRINK, decided_by="a person", ceiling_usd=90.0, share=0.4, done_steps={"a": 12})
    assert DecisionLog(path).open_question is None
    assert DecisionLog(path).decisions == [(question, decision)]
    assert ask(log).number == 2


def test_asking_again_takes_a_new_number_because_prefect_answers_each_once(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.jsonl")
    assert (ask(log).number, ask(log).number) == (1, 2)
    assert log.decisions == []
    log.decide(Choice.STOP, decided_by="a person", ceiling_usd=1.0)
    assert len(log.decisions) == 1


def test_there_is_nothing_to_decide_without_a_question(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no open question"):
        DecisionLog(tmp_path / "decisions.jsonl").decide(Choice.STOP, decided_by="a person", ceiling_usd=1.0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_text('{"question": 3}\n')
    with pytest.raises(ConfigurationError, match=r"decisions\.jsonl' cannot be read"):
        _ = DecisionLog(path).open_question


@pytest.mark.parametrize(
    ("choice", "ceiling", "problem"),
    [
        ("approve", None, "approve needs new_ceiling_usd"),
        ("approve", 15.0, "already spent"),
        ("shrink", 15.0, "already spent"),
        ("approve", 150.0, None),
        ("shrink", None, None),
        ("stop", None, None),
    ],
)
def test_answers_that_cannot_be_followed_are_explained(
    tmp_path: Path, choice: str, ceiling: float | None, problem: str | None
) -> None:
    question = ask(DecisionLog(tmp_path / "decisions.jsonl"))
    answer = BudgetAnswer.model_validate({"choice": choice, "new_ceiling_usd": ceiling})
    found = answer_problem(answer, question)
    assert found is None if problem is None else problem in (found or "")


def test_the_question_tells_the_money_the_place_and_the_answers(tmp_path: Path) -> None:
    text = question_text(ask(DecisionLog(tmp_path / "d.jsonl")), run_name="swift-fox")
    assert "**too dear**" in text
    assert "* Training: $100.00 ($87.56 to $113.07), calibrated on this machine" in text
    assert "Spent: $20.00. Ceiling: $100.00. Expected at the end: **$130.00**" in text
    assert "after update 12, with a checkpoint" in text
    assert "`sam2 answer swift-fox approve --ceiling 144.4`" in text
    without = question_text(ask(DecisionLog(tmp_path / "e.jsonl"), None), can_shrink=False)
    assert "shrink" not in without


@given(st.floats(1, 1e4), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1, 2e4), st.floats(0.02, 0.5))
def test_the_share_is_the_largest_that_fits(
    training: float, evaluation: float, spent: float, ceiling: float, probability: float
) -> None:
    seen = forecast(training, evaluation, spent)
    share = fitting_share(seen, {"training"}, ceiling, probability)

    def over(share: float) -> float:
        return scaled(seen, {"training"}, share).probability_over(ceiling)

    if share == 0:
        assert over(1e-6) > probability or over(0) > probability
        return
    assert over(share) <= probability
    assert share == 1 or over(min(1.0, share + 1e-6)) > probability


def test_only_training_is_scaled() -> None:
    half = scaled(forecast(), {"training"}, 0.5)
    assert [stage.usd for stage in half.stages] == [50.0, 10.0]
