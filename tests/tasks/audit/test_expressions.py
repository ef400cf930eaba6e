"""Formulas as text."""

from __future__ import annotations

import pytest

from infra.errors import ConfigurationError
from tasks.audit.expressions import Formulas
from tasks.audit.spans import Span, as_span

FORMULAS = Formulas({"week": 168.0, "share": Span(0.3, 0.5)}.__getitem__, {"double": lambda value: 2 * value})


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("8 * 3 * 168 * 12", as_span(48_384)),
        ("-(2 + 3) / 2", as_span(-2.5)),
        ("2 ** 10", as_span(1024)),
        ("3 * week", as_span(504)),
        ("6 / share", Span(12, 20)),
        ("double(share) + 1", Span(1.6, 2.0)),
        ("27, 35", Span(27, 35)),
    ],
)
def test_values(formula: str, value: Span) -> None:
    result = FORMULAS.evaluate(formula).value
    assert (result.low, result.high) == (pytest.approx(value.low), pytest.approx(value.high))


def test_names_are_reported_in_order_once() -> None:
    assert FORMULAS.evaluate("double(week) + week * share").names == ("double", "week", "share")


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("3 *", "invalid syntax"),
        ("unheard_of + 1", "unknown name 'unheard_of'"),
        ("1 / (share - 0.4)", "contains 0"),
        ("week.real", "is not arithmetic"),
        ("__import__('os')", "unknown name '__import__'"),
        ("[1][0]", "is not arithmetic"),
        ("(lambda: 1)()", "is not arithmetic"),
        ("double(1, 2)", "positional argument"),
    ],
)
def test_what_cannot_be_computed_names_the_formula(formula: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FORMULAS.evaluate(formula)
    assert f"formula '{formula}'" in str(caught.value)
    assert problem in str(caught.value)
