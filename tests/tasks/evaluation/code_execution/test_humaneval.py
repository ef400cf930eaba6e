"""HumanEval: the right answers pass, empty ones fail, and a row that is not one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tasks.evaluation.code_execution import Verdict, check_completions
from tasks.evaluation.code_execution.humaneval import program

PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'def double(number):\n    """Twice the number."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "double",
}


@pytest.fixture(scope="module")
def problems() -> list[dict[str, str]]:
    repository = Path(__file__).parents[4]
    places = [folder / "eval-data/humaneval/test.jsonl" for folder in (repository, repository.parent / "shared")]
    for place in places:
        if place.exists():
            return [json.loads(line) for line in place.read_text().splitlines()]
    pytest.skip("no eval-data/humaneval/test.jsonl in or beside the repository: HumanEval itself is not tried")


@pytest.mark.usefixtures("sandboxed")
def test_completions_are_judged_one_by_one() -> None:
    completions = ["    return number * 2", "    return number + 2", "    return number *", "    open('x', 'w')"]
    outcomes = check_completions([PROBLEM] * 4, completions, workers=2)
    assert [outcome.verdict for outcome in outcomes] == [
        Verdict.PASSED,
        Verdict.FAILED,
        Verdict.FAILED,
        Verdict.BLOCKED,
    ]
    assert [outcome.detail for outcome in outcomes[:3]] == [
        "",
        "AssertionError at line 6",
        "SyntaxError: invalid syntax (program.py, line 3)",
    ]


@pytest.mark.usefixtures("sandboxed")
def test_all_canonical_solutions_pass(problems: list[dict[str, str]]) -> None:
    assert len(problems) == 164
    outcomes = check_completions(problems, [problem["canonical_solution"] for problem in problems], workers=2)
    wrong = {row["task_id"]: outcome for row, outcome in zip(problems, outcomes, strict=True) if not outcome.passed}
    assert wrong == {}


@pytest.mark.usefixtures("sandboxed")
def test_all_empty_completions_fail(problems: list[dict[str, str]]) -> None:
    outcomes = check_completions(problems, ["    pass"] * len(problems), workers=2)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.FAILED}


def test_the_program_is_the_references() -> None:
    assert program(PROBLEM, "    return 1") == (
        'def double(number):\n    """Twice the number."""\n    return 1\n'
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n"
        "\ncheck(double)"
    )


def test_rows_and_completions_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigurationError, match="1 problems and 2 completions"):
        check_completions([PROBLEM], ["", ""])
    without_test = {name: text for name, text in PROBLEM.items() if name != "test"}
    with pytest.raises(ConfigurationError, match="the field test of Own/0 is not text"):
        check_completions([without_test], [""])
