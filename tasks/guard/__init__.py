"""Keeps a run within its money: forecasts while it works, and holds it, with a checkpoint, before the ceiling.

Public surface: `BudgetGuard` and what it raises (`BudgetHold`), `GuardConfig`, the question to a person and its answer
(`Question`, `BudgetAnswer`, `Decision`), `DecisionLog`, and `fitting_share` (how much of the training the money buys).
"""

from tasks.guard.answers import BudgetAnswer, answer_problem, question_text
from tasks.guard.config import GuardConfig
from tasks.guard.decisions import Choice, Decision, DecisionLog, Question
from tasks.guard.fitting import fitting_share
from tasks.guard.guard import BudgetGuard, BudgetHold, StageWatch

__all__ = [
    "BudgetAnswer",
    "BudgetGuard",
    "BudgetHold",
    "Choice",
    "Decision",
    "DecisionLog",
    "GuardConfig",
    "Question",
    "StageWatch",
    "answer_problem",
    "fitting_share",
    "question_text",
]
