"""A sandbox for programs that a model wrote, and HumanEval's verdict on them.

Public surface: `run_program` and `run_programs` with `Limits`, `Outcome` and `Verdict`; `sandbox_problem` and
`reading_is_confined` say what this machine can enforce; `check_completions` and `pass_at_k` for HumanEval.
"""

from tasks.evaluation.code_execution.config import Limits, Outcome, Verdict
from tasks.evaluation.code_execution.humaneval import check_completions
from tasks.evaluation.code_execution.pass_at_k import pass_at_k
from tasks.evaluation.code_execution.sandbox import (
    SandboxError,
    reading_is_confined,
    run_program,
    run_programs,
    sandbox_problem,
)

__all__ = [
    "Limits",
    "Outcome",
    "SandboxError",
    "Verdict",
    "check_completions",
    "pass_at_k",
    "reading_is_confined",
    "run_program",
    "run_programs",
    "sandbox_problem",
]
