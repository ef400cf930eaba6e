"""The form a person fills in, in the Prefect UI or with `sam2 answer`, and the question above it."""

from __future__ import annotations

from typing import Literal

from prefect.input import RunInput
from pydantic import Field

from tasks.forecasting import Basis
from tasks.guard.decisions import Choice, Question
from tasks.reporting.formatting import dollars


class BudgetAnswer(RunInput):
    """What to do with a run that would cost more than it may."""

    choice: Literal["approve", "shrink", "stop"] = Field(
        description="approve: go on under a new ceiling. shrink: shorten what remains of the training to fit the "
        "ceiling. stop: end here, and register what was learnt as a partial model."
    )
    new_ceiling_usd: float | None = Field(
        None, gt=0, title="New ceiling (USD)", description="approve needs it; shrink fits into it where it is given"
    )


def answer_problem(answer: BudgetAnswer, question: Question) -> str | None:
    """What is wrong with an answer, for the person who gave it; None when it can be followed."""
    spent, ceiling = question.forecast.spent_usd, answer.new_ceiling_usd
    if answer.choice == Choice.APPROVE and ceiling is None:
        return "approve needs new_ceiling_usd"
    if answer.choice != Choice.STOP and ceiling is not None and ceiling <= spent:
        return f"new_ceiling_usd {dollars(ceiling)} is already spent ({dollars(spent)})"
    return None


def question_text(question: Question, *, can_shrink: bool = True, run_name: str = "RUN") -> str:
    """The question in Markdown: what is spent, what is expected, stage by stage, and what each answer does."""
    forecast, ceiling = question.forecast, question.ceiling_usd
    # A list, not a table: the form in Prefect's page is narrow, and cells do not wrap there.
    still_to_come = [
        f"* {stage.title}: {dollars(stage.usd)} ({dollars(stage.low_usd)} to {dollars(stage.high_usd)}), {stage.basis}"
        for stage in forecast.stages
        if stage.basis is not Basis.FINISHED
    ]
    shrink = "* **shrink**: what remains of the training is shortened to fit; every context length is kept."
    return "\n".join(
        [
            f"**{question.reason}**",
            "",
            f"Spent: {dollars(forecast.spent_usd)}. Ceiling: {dollars(ceiling)}. Expected at the end: "
            f"**{dollars(forecast.expected_usd)}** (80% between {dollars(forecast.low_usd)} and "
            f"{dollars(forecast.high_usd)}); {forecast.probability_over(ceiling):.0%} likely to exceed the ceiling.",
            "",
            "Still to come:",
            "",
            *still_to_come,
            "",
            _where(question),
            "",
            f"* **approve**: goes on under `new_ceiling_usd`; {dollars(forecast.high_usd)} is 90% likely to be enough.",
            *([shrink] if can_shrink else []),
            "* **stop**: ends here; what was learnt is registered as a partial model.",
            "",
            f"In a terminal: `sam2 answer {run_name} approve --ceiling {forecast.high_usd:.4g}`. Nothing is spent "
            "while the run waits, but a rented machine goes on costing until it is given back.",
        ]
    )


def _where(question: Question) -> str:
    if question.done_steps is None:
        return f"The run waits before or in stage `{question.stage}`; what is finished is kept."
    return f"The run waits in stage `{question.stage}`, after update {question.done_steps:,}, with a checkpoint."
