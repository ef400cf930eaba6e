"""HumanEval's programs: prompt, completion and tests in one (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.errors import ConfigurationError
from tasks.evaluation.code_execution.config import Limits, Outcome
from tasks.evaluation.code_execution.sandbox import run_programs

_FIELDS = ("task_id", "prompt", "test", "entry_point")


def check_completions(
    problems: Sequence[Mapping[str, str]],
    completions: Sequence[str],
    limits: Limits | None = None,
    workers: int | None = None,
) -> list[Outcome]:
    """One outcome for each completion of the problem at the same place; for more samples, repeat the problems.

    Raises:
        ConfigurationError: a row lacks a field, or there are not as many completions as problems.
        SandboxError: generated code cannot be run safely here.
    """
    if len(problems) != len(completions):
        raise ConfigurationError(
            f"HumanEval: {len(problems)} problems and {len(completions)} completions.", "give one completion a problem."
        )
    programs = [program(problem, completion) for problem, completion in zip(problems, completions, strict=True)]
    return list(run_programs(programs, limits, workers))


def program(problem: Mapping[str, str], completion: str) -> str:
    """The program that ends well when the completion is right."""
    for name in _FIELDS:
        if not isinstance(problem.get(name), str):
            raise ConfigurationError(
                f"HumanEval: the field {name} of {problem.get('task_id', 'a row')} is not text.",
                "use the rows of openai_humaneval as they are.",
            )
    check = f"check({problem['entry_point']})"
    return f"{problem['prompt']}{completion}\n{problem['test']}\n{check}"
