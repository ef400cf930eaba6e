"""Plan against actual: what is compared, what it teaches, and how the report, the terminal and MLflow tell it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.budget import Attempt
from infra.budget.ledger_attempt import Outcome
from tasks.reporting import (
    BudgetDecision,
    PlanComparison,
    PlannedStageSpend,
    RunSummary,
    compare_plan,
    plan_metrics,
    render_report,
    text_summary,
)
from tasks.reporting.headline import headline
from tasks.reporting.plan_section import plan_section, plan_sentence
from tasks.reporting.terminal import MAXIMUM_LINES


@dataclass(frozen=True)
class Estimated:
    name: str
    usd: float
    basis: str = "last time"
    seconds: float = 10.0

    @property
    def title(self) -> str:
        return self.name.capitalize()

    @property
    def low_usd(self) -> float:
        return 0.8 * self.usd

    @property
    def high_usd(self) -> float:
        return 1.25 * self.usd


def attempt(stage: str, usd: float, outcome: Outcome = "completed") -> Attempt:
    return Attempt(
        attempt_id=stage + outcome, run_id="run", profile="smoke", stage=stage, provider="lambda", usd_per_hour=3600.0,
        started=0.0, last_seen=usd, outcome=outcome, elapsed_seconds=usd,
    )  # fmt: skip


@pytest.fixture
def plan() -> PlanComparison:
    estimates = [
        Estimated("download", 0.0, "finished"), Estimated("foundation", 10.0, "assumed utilisation"),
        Estimated("scaling", 20.0, "assumed utilisation"), Estimated("evaluation", 4.0), Estimated("quantization", 5.0),
    ]  # fmt: skip
    attempts = [
        attempt("download", 0.1, "reused"), attempt("foundation", 6.0, "failed"), attempt("foundation", 12.0),
        attempt("scaling", 24.0), attempt("evaluation", 4.0), attempt("registration", 1.5),
    ]  # fmt: skip
    return compare_plan(
        estimates, attempts, reused={"download"}, titles={"registration": "Registration"}, low_usd=30.0, high_usd=50.0
    )


def test_only_the_same_work_is_compared(plan: PlanComparison) -> None:
    rows = {row.stage: row for row in plan.rows}
    assert list(rows) == ["download", "foundation", "scaling", "evaluation", "quantization", "registration"]
    assert [row.stage for row in plan.compared] == ["foundation", "scaling", "evaluation"]
    assert (rows["foundation"].attempts, rows["foundation"].wasted_usd, rows["foundation"].ratio) == (2, 6.0, 1.8)
    assert [rows[name].is_within for name in rows] == [None, False, True, True, None, None]
    assert (plan.planned_usd, plan.actual_usd, plan.unplanned_usd) == (39.0, pytest.approx(47.6), 1.5)
    assert plan.ratio == pytest.approx(46 / 34)


@pytest.mark.parametrize(
    ("outcome", "changed", "state"),
    [("completed", [], "built"), ("completed", ["train"], "shortened"), ("suspended", [], "not finished"),
     ("failed", [], "not finished"), ("interrupted", [], "not finished")],
)  # fmt: skip
def test_work_that_is_not_what_was_planned_teaches_nothing(outcome: Outcome, changed: list[str], state: str) -> None:
    plan = compare_plan([Estimated("train", 2.0)], [attempt("train", 1.0, outcome)], changed=changed)
    assert plan.rows[0].state == state
    assert [row.stage for row in plan.compared] == (["train"] if state == "built" else [])
    assert (plan.ratio, len(plan.lessons)) == ((0.5, 1) if state == "built" else (None, 0))
    assert compare_plan([Estimated("train", 2.0)], []).rows[0].state == "not run"


def test_a_factor_is_of_useful_work_and_of_one_basis(plan: PlanComparison) -> None:
    assert [(one.basis, one.stages, one.factor) for one in plan.lessons] == [
        ("assumed utilisation", 2, 1.2), ("last time", 1, 1.0)
    ]  # fmt: skip


def test_the_sentence_says_how_far_off_and_where_the_money_went(plan: PlanComparison) -> None:
    assert plan_sentence(plan) == (
        "$34.00 planned and $46.00 spent on the 3 stages that were built: 35.3% more than planned. "
        "2 of 3 were within their interval. $1.50 went to stages without a plan. "
        "$6.00 went to attempts without a result."
    )


@pytest.mark.parametrize(
    ("actual", "said"), [(1.0, "as planned"), (0.5, "50.0% less than planned"), (7.0, "7 times the plan")]
)
def test_other_distances(actual: float, said: str) -> None:
    one = compare_plan([Estimated("train", 1.0)], [attempt("train", actual)])
    assert f"on the one stage that was built: {said}." in plan_sentence(one)


def test_nothing_built_teaches_nothing() -> None:
    reused = compare_plan([Estimated("train", 1.0)], [attempt("train", 0.01, "reused")], reused=["train"])
    assert (reused.ratio, reused.lessons) == (None, [])
    assert plan_sentence(reused).startswith("Nothing that was planned")
    assert plan_sentence(PlanComparison()) == ""


def test_metrics_are_flat_and_mlflow_takes_their_names(plan: PlanComparison) -> None:
    metrics = plan_metrics(plan)
    assert metrics["plan/usd"] == 39.0
    assert metrics["plan/low_usd"] == 30.0
    assert metrics["plan/actual_over_planned"] == pytest.approx(46 / 34)
    assert metrics["plan/foundation/planned_usd"] == 10.0
    assert metrics["plan/foundation/actual_over_planned"] == 1.8
    assert metrics["plan/factor/assumed utilisation"] == 1.2
    assert "plan/registration/planned_usd" not in metrics
    odd = compare_plan([Estimated("long, context: 2", 1.0, "scaled by FLOPs, twice")], [])
    assert all(re.fullmatch(r"[\w\-. /]+", name) for name in {**metrics, **plan_metrics(odd)})


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(0, 1e6)), min_size=1, max_size=8))
def test_a_plan_corrected_by_its_factor_has_the_actual_total(pairs: list[tuple[float, float]]) -> None:
    estimates = [Estimated(str(index), planned) for index, (planned, _) in enumerate(pairs)]
    attempts = [attempt(str(index), actual) for index, (_, actual) in enumerate(pairs)]
    (lesson,) = compare_plan(estimates, attempts).lessons
    corrected = sum(lesson.factor * one.usd for one in estimates)
    assert corrected == pytest.approx(sum(actual for _, actual in pairs))


@pytest.fixture
def told(summary: RunSummary) -> RunSummary:
    """The complete run with a plan that was off here and there, and two decisions."""
    rows = []
    for index, stage in enumerate(summary.stages):
        planned = None if stage.name == "registration" else stage.usd * (0.7, 0.95, 1.0, 1.1)[index % 4]
        rows.append(
            PlannedStageSpend(
                stage=stage.name, title=stage.title, planned_usd=0.0 if stage.reused else planned,
                planned_low_usd=None if planned is None else 0.0 if stage.reused else 0.85 * planned,
                planned_high_usd=None if planned is None else 0.0 if stage.reused else 1.2 * planned,
                planned_seconds=None if planned is None else stage.seconds,
                basis="" if planned is None else "finished" if stage.reused else
                "assumed utilisation" if index in (4, 5, 6) else "last time",
                actual_usd=stage.usd, actual_seconds=stage.seconds, attempts=1 + (index == 4),
                wasted_usd=0.0005 if index == 4 else 0.0, reused=stage.reused,
            )
        )  # fmt: skip
    decisions = [
        BudgetDecision(
            time=datetime(2026, 3, 1, 12, 4, tzinfo=timezone(timedelta(hours=2))),
            question="$0.0140 expected ($0.0121 to $0.0163), ceiling $0.0120. <b>Go on?</b>",
            answer="shrink: 70% of the remaining training",
        ),
        BudgetDecision(time=datetime(2026, 3, 1, 10, 9, tzinfo=UTC), question="$0.0131 expected", answer="approve"),
    ]
    return summary.model_copy(update={"plan": PlanComparison(rows=rows), "decisions": decisions})


def test_the_report_has_plan_and_decisions_beside_the_cost(told: RunSummary) -> None:
    html = render_report(told)
    anchors = re.findall(r'<section id="(\w+)"', html)
    assert anchors[anchors.index("cost") + 1] == "plan"
    assert html.count('class="expected"') == 6 and html.count('class="mark"') == 6
    assert "2026-03-01 10:04" in html and "shrink: 70%" in html
    assert "<b>Go on?</b>" not in html and "Go on?" in html
    widths = [float(width) for width in re.findall(r"(?:width|left):([\d.]+)%", html.partition('id="plan"')[2])]
    assert widths and max(widths) <= 100.0


def test_a_run_without_a_plan_has_no_such_section(summary: RunSummary) -> None:
    assert plan_section(summary) is None
    assert 'id="plan"' not in render_report(summary)


def test_the_terminal_has_planned_and_ratio_in_columns(told: RunSummary) -> None:
    lines = text_summary(told).splitlines()
    assert len(lines) <= MAXIMUM_LINES and max(map(len, lines)) <= 96
    planned = [line for line in lines if " planned  " in line and "× " in line]
    assert len(planned) == 6 and len({len(line) for line in planned}) == 1
    assert any("spent on the 6 stages that were built" in line for line in lines)


def test_a_summary_with_a_plan_survives_its_json(told: RunSummary) -> None:
    assert RunSummary.model_validate_json(told.model_dump_json()) == told


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("waiting", "The run waits for an answer about its budget"),
        ("stopped", "The run was stopped for its budget; its partial model passed 3 of 3 gates"),
    ],
)
def test_what_the_guard_ended_is_not_told_as_a_failure(summary: RunSummary, status: str, verdict: str) -> None:
    found = headline(summary.model_copy(update={"status": status}))
    assert (found.verdict, found.tone) == (verdict, "warn")
