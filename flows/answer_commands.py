"""`sam2 answer`: what a run asks that would cost too much, and the answer, without a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

if TYPE_CHECKING:
    from infra.stack.runs import FlowRun, PrefectRuns

console = Console(highlight=False)


def add_answer_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command()(answer)


def answer(
    name: Annotated[
        str, typer.Argument(help="The run's name or id; `latest` is the newest that waits.", metavar="[RUN]")
    ] = "latest",
    choice: Annotated[
        str | None, typer.Argument(help="Left out: only show the question.", metavar="[approve|shrink|stop]")
    ] = None,
    ceiling: Annotated[float | None, typer.Option(help="USD; approve needs it, shrink fits into it.")] = None,
) -> None:
    """Answer a run that waits because it would cost more than its ceiling: approve, shrink or stop."""
    from infra.errors import ConfigurationError
    from infra.stack import StackSettings, running_state
    from infra.stack.runs import PrefectRuns
    from tasks.guard import Choice, DecisionLog
    from tasks.guard.answers import BudgetAnswer, answer_problem, question_text
    from tasks.guard.decisions import DECISION_FILE

    settings = StackSettings.from_environment()
    runs = PrefectRuns(running_state(settings).prefect_api_url)
    run = _waiting_run(runs, name)
    question = DecisionLog(settings.runs_directory / run.id / DECISION_FILE).open_question
    if choice is None:
        text = question_text(question, run_name=run.name) if question else f"{run.name} waits: {run.message}"
        console.print(Markdown(text))
        return
    if choice not in list(Choice):
        raise ConfigurationError(f"'{choice}' is no answer.", f"choose one of: {', '.join(Choice)}.")
    given = BudgetAnswer.model_validate({"choice": choice, "new_ceiling_usd": ceiling})
    problem = answer_problem(given, question) if question else None
    if problem:
        raise ConfigurationError(f"the answer cannot be followed: {problem}.", "give --ceiling USD.")
    runs.answer(run, given.model_dump())
    console.print(f"{run.name} goes on. Watch it: sam2 watch {run.name}", markup=False)


def _waiting_run(runs: PrefectRuns, name: str) -> FlowRun:
    from infra.stack.errors import RunNotFound

    if name != "latest":
        return runs.find(name)
    waiting = runs.waiting()
    if not waiting:
        raise RunNotFound("No run waits for an answer.", "see `sam2 status`.")
    return waiting[0]
