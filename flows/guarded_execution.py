"""Runs a graph under the budget guard: forecasts, asks a person when it would cost too much, and follows the answer.

A run that waits has ended its process; the worker starts it again when the answer is there, and everything finished is
found. What was decided is kept beside the run's report, so that a run killed at any moment continues as decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_runs import suspend_flow_run

from flows.configuration import BudgetConfig
from flows.execution import close, execute
from flows.looking_ahead import evidence_of, forecast_stages
from flows.pipeline_graph import PlannedStage
from flows.run_record import RunRecord
from infra.artifacts import Artifact
from infra.errors import BudgetExceeded
from tasks.forecasting import Forecast, keep_first_forecast
from tasks.guard import (
    BudgetGuard,
    BudgetHold,
    Choice,
    Decision,
    DecisionLog,
    Question,
    fitting_share,
)
from tasks.guard.answers import BudgetAnswer, answer_problem, question_text
from tasks.guard.decisions import DECISION_FILE
from tasks.reporting.formatting import dollars
from tasks.run_context import RunContext
from tasks.training import TrainingStageConfig

#: Makes the graph as it is after these decisions; may move unfinished work to where the changed stages find it.
BuildGraph = Callable[[Sequence[Decision]], list[PlannedStage]]
#: Updates that each unfinished training stage's checkpoints hold, by stage name.
DoneSteps = Callable[[Sequence[PlannedStage]], dict[str, int]]


@dataclass
class GuardedRun:
    """One flow run under the guard.

    can_shrink: whether the graph's training can be shortened. present: finished artifacts that stages take as inputs.
    """

    run: RunContext
    budget: BudgetConfig
    record: RunRecord
    build: BuildGraph
    done_steps: DoneSteps = lambda graph: {}
    can_shrink: bool = False
    present: Mapping[str, Artifact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._decisions = DecisionLog(self.run.run_directory / DECISION_FILE)
        self._tracker = self.run.tracker()

    def execute(self) -> None:
        """Run the stages to the end that the decisions lead to.

        Raises BudgetExceeded when the money is out before anything was trained, Prefect's Pause when a person is asked.
        """
        self._take_answer()
        while True:
            self._check_anything_is_left()
            graph = self.build(self.decided)
            guard = self._guard(graph)
            status = "stopped" if self._is_stopped else "completed"
            self.record.ceiling_usd = self.ceiling_usd
            try:
                execute(graph, self.run, self.record, guard, self.present, status)
                return
            except BudgetHold as hold:
                self._resolve(hold, graph)

    @property
    def decided(self) -> list[Decision]:
        """What was decided until now, in order."""
        return [decision for _, decision in self._decisions.decisions]

    @property
    def ceiling_usd(self) -> float | None:
        """The ceiling in force."""
        return self.decided[-1].ceiling_usd if self.decided else self.budget.ceiling_usd

    # Holding

    def _resolve(self, hold: BudgetHold, graph: Sequence[PlannedStage]) -> None:
        """Decide what follows a hold, or ask. Raises BudgetExceeded where there is nothing to decide, else Pause."""
        ceiling = self.ceiling_usd
        assert ceiling is not None
        if hold.final or self.budget.guard.on_overspend == "stop":
            if not self._has_trained(graph):
                close(self.run, self.record, "failed")
                raise hold
            self._ask(hold, graph, ceiling)
            self._decide(Choice.STOP, graph, "the guard, as configured", ceiling)
            get_run_logger().warning("%s The run ends here, with a partial model.", hold.problem)
            self.record.stages.clear()
            return
        question = self._ask(hold, graph, ceiling)
        get_run_logger().warning("%s", hold.problem)
        close(self.run, self.record, "waiting")
        self._wait(question)

    def _ask(self, hold: BudgetHold, graph: Sequence[PlannedStage], ceiling: float) -> Question:
        node = next(node for node in graph if node.name == hold.stage)
        done = self.done_steps(graph).get(node.config.name) if isinstance(node.config, TrainingStageConfig) else None
        return self._decisions.ask(
            stage=hold.stage, done_steps=done, reason=hold.problem, ceiling_usd=ceiling, forecast=hold.forecast
        )

    def _check_anything_is_left(self) -> None:
        """A run that was stopped before it trained ends here, without a model."""
        if self._is_stopped and not (self.can_shrink and any(self.decided[-1].done_steps.values())):
            close(self.run, self.record, "failed")
            raise BudgetExceeded(
                f"the run was stopped by {self.decided[-1].decided_by} before there was a model to register.",
                "start another one with a higher budget.ceiling_usd; every finished stage is kept and reused.",
            )

    def _has_trained(self, graph: Sequence[PlannedStage]) -> bool:
        return self.can_shrink and any(self.done_steps(graph).values())

    # Asking

    def _take_answer(self) -> None:
        """Follow the answer to an open question; wait when there is none."""
        question = self._decisions.open_question
        while question is not None:
            answer = self._wait(question)
            problem = answer_problem(answer, question) or self._follow(answer, question)
            if problem is None:
                return
            get_run_logger().warning("budget: the answer cannot be followed: %s; asking again", problem)
            question = self._ask_again(question, problem)

    def _wait(self, question: Question) -> BudgetAnswer:
        """The answer; where there is none yet, the process ends here and the run waits (Prefect's Pause)."""
        text = question_text(question, can_shrink=self.can_shrink, run_name=self.run.run_name)
        create_markdown_artifact(markdown=text, key="budget-question", description="The run waits for an answer")
        form = BudgetAnswer.with_initial_data(description=text)
        try:
            answer: BudgetAnswer = suspend_flow_run(wait_for_input=form, key=f"budget-{question.number}")
        except PrefectHTTPStatusError as error:
            # The run was continued without an answer (retried after it was cancelled, say).
            if error.response.status_code != 404:
                raise
            return self._wait(self._ask_again(question, "it was continued without an answer"))
        return answer

    def _ask_again(self, question: Question, problem: str) -> Question:
        return self._decisions.ask(
            stage=question.stage,
            done_steps=question.done_steps,
            reason=f"{question.reason} (The last answer could not be followed: {problem}.)",
            ceiling_usd=question.ceiling_usd,
            forecast=question.forecast,
        )

    def _follow(self, answer: BudgetAnswer, question: Question) -> str | None:
        """Note the decision; what is wrong with it, or None."""
        graph = self.build(self.decided)
        ceiling = answer.new_ceiling_usd or question.ceiling_usd
        choice = Choice(answer.choice)
        share = 1.0
        if choice is not Choice.APPROVE and not self.can_shrink:
            if choice is Choice.SHRINK:
                return "this run's training cannot be shortened; approve a new ceiling or stop"
        elif choice is Choice.STOP and not self._has_trained(graph):
            get_run_logger().warning("nothing was trained yet: the run ends without a model")
        elif choice is Choice.SHRINK:
            trained = {node.name for node in graph if isinstance(node.config, TrainingStageConfig)}
            # With room to spare, so that the shortened run does not begin with a warning.
            probability = self.budget.guard.warn_probability / 2
            share = fitting_share(question.forecast, trained, ceiling, probability)
            if share <= 0:
                return f"even without any further training {dollars(ceiling)} is not enough; approve more, or stop"
        self._decide(choice, graph, "a person", ceiling, share)
        return None

    def _decide(
        self, choice: Choice, graph: Sequence[PlannedStage], decided_by: str, ceiling: float, share: float = 1.0
    ) -> None:
        done = self.done_steps(graph)
        decision = self._decisions.decide(
            choice, decided_by=decided_by, ceiling_usd=ceiling, share=share, done_steps=done
        )
        self._tracker.set_tags({"sam2.budget_decision": f"{decision.choice} by {decided_by}"})
        get_run_logger().info(
            "budget: %s decided %s: ceiling %s%s",
            decided_by, choice, dollars(ceiling), f", {share:.0%} of the remaining training" if share < 1 else "",
        )  # fmt: skip

    # Looking ahead

    def _guard(self, graph: Sequence[PlannedStage]) -> BudgetGuard:
        run = self.run
        stages = forecast_stages(graph, run.store(), self._present_references, self.done_steps(graph))
        guard = BudgetGuard(
            self.budget.guard,
            run.ledger(),
            run.profile,
            run.price,
            None if self._is_stopped else self.ceiling_usd,  # what ends a stopped run is small, and all it is for
            stages,
            evidence_of(run, stages),
            get_run_logger(),
            self._tell,
        )
        first = keep_first_forecast(run.run_directory, guard.forecast())
        self._tracker.log_metrics({"plan/usd": first.remaining_usd})
        return guard

    @property
    def _present_references(self) -> dict[str, str]:
        return {name: artifact.reference for name, artifact in self.present.items()}

    @property
    def _is_stopped(self) -> bool:
        return bool(self.decided) and self.decided[-1].choice is Choice.STOP

    def _tell(self, forecast: Forecast) -> None:
        """Everyone who compares runs sees the forecast on the parent; `cost/` is what was spent, and comes first."""
        figures = {
            "cost/usd_profile_total": forecast.spent_usd,
            "forecast/usd": forecast.expected_usd,
            "forecast/low_usd": forecast.low_usd,
            "forecast/high_usd": forecast.high_usd,
        }
        if self.ceiling_usd is not None:
            figures["forecast/ceiling_usd"] = self.ceiling_usd
            figures["forecast/probability_over_ceiling"] = forecast.probability_over(self.ceiling_usd)
        self._tracker.log_metrics(figures)
