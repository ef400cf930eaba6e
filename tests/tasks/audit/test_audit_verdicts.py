"""Verdicts from two numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.audit import Kind, Span, judge, parse_figure
from tasks.audit.figures import Figure, Sense
from tasks.audit.spans import as_span
from tasks.audit.verdicts import distance


@pytest.mark.parametrize(
    ("figure", "recomputed", "kind"),
    [
        ("$4,570", 4569.6, Kind.CONFIRMED),  # to the last written digit
        ("$5,507", 5505.36, Kind.ROUNDED),
        ("$40,320", 6048, Kind.WRONG),
        ("~86GB", 93, Kind.ROUNDED),  # a tilde allows a tenth
        ("86GB", 93, Kind.WRONG),
        ("$15,000 - $25,000", 20_000, Kind.CONFIRMED),
        ("$15,000 - $25,000", 14_000, Kind.WRONG),
        ("$15,000 - $25,000", Span(12_848, 21_413), Kind.CONFIRMED),
        ("85%+", 99, Kind.CONFIRMED),
        ("85%+", 61.2, Kind.WRONG),
        ("85%+", 83, Kind.ROUNDED),
        ("85%+", Span(70, 99), Kind.PARTLY),
        ("<20GB", 3, Kind.CONFIRMED),
        ("<20GB", Span(3, 30), Kind.PARTLY),
        ("<20GB", 30, Kind.WRONG),
        (">100 tok/s", 99.9, Kind.ROUNDED),  # a bound is meant to the digit
    ],
)
def test_the_kind(figure: str, recomputed: float | Span, kind: Kind) -> None:
    assert judge(parse_figure(figure), as_span(recomputed)).kind is kind


def test_a_wrong_figure_says_by_how_much_and_which_way() -> None:
    assert judge(parse_figure("$40,320"), as_span(6048)).text == "wrong (factor 6.67, stated too high)"
    assert judge(parse_figure("2-3 weeks"), Span(6, 10)).text == "wrong (factor 2.00, stated too low)"
    assert judge(parse_figure("33 minutes"), as_span(0.12)).text == "wrong (factor 275, stated too high)"


def test_without_a_common_sign_there_is_no_factor() -> None:
    assert judge(parse_figure("32%"), as_span(-0.4)).text == "wrong (stated too high)"
    assert judge(parse_figure("20%"), as_span(0)).text == "wrong (stated too high)"


def test_against_other_claims_it_is_inconsistent() -> None:
    verdict = judge(parse_figure("$45,000"), as_span(65_000), against=("000.total",))
    assert verdict.text == "inconsistent with 000.total (factor 1.44, stated too low)"
    assert judge(parse_figure("$65,000"), as_span(65_000), against=("000.total",)).kind is Kind.CONFIRMED


def test_a_tolerance_of_its_own() -> None:
    figure = parse_figure("6.55/10")
    assert judge(figure, as_span(6.6)).kind is Kind.ROUNDED
    assert judge(figure, as_span(6.6), tolerance=0).kind is Kind.WRONG


def test_distances_are_from_the_nearest_ends() -> None:
    assert distance(parse_figure("2-3 weeks"), Span(6, 10)) == 3
    assert distance(parse_figure("2-3 weeks"), Span(2.5, 10)) == 0
    assert distance(parse_figure("85%+"), as_span(99)) == 0


@given(stated=st.floats(1, 1e9), factor=st.floats(1.2, 100), too_high=st.booleans())
def test_the_factor_is_the_one_put_in(stated: float, factor: float, too_high: bool) -> None:
    figure = Figure(as_span(stated), 0.0, False, Sense.EQUAL)
    verdict = judge(figure, as_span(stated / factor if too_high else stated * factor))
    assert verdict.kind is Kind.WRONG
    assert verdict.factor == pytest.approx(factor)
    assert verdict.stated_is == ("too high" if too_high else "too low")
