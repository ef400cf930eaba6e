"""Keeps a run within its money: forecasts while it works, and holds it, with a checkpoint, before the ceiling.

Public surface: `BudgetGuard` and what it raises (`BudgetHold`), `GuardConfig`, the question to a person and what was
decided (`Question`, `Decision`), `DecisionLog`, and `fitting_share` (how much of the training the money buys). The form
a person fills in is in `answers.py`, apart, because it needs Prefect, which takes seconds to import.
"""

from tasks.guard.config import GuardConfig
from tasks.guard.decisions import Choice, Decision, DecisionLog, Question
from tasks.guard.fitting import fitting_share
from tasks.guard.guard import BudgetGuard, BudgetHold, StageWatch

__all__ = [
    "BudgetGuard",
    "BudgetHold",
    "Choice",
    "Decision",
    "DecisionLog",
    "GuardConfig",
    "Question",
    "StageWatch",
    "fitting_share",
]
