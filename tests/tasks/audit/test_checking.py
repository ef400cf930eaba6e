"""The audit as a whole: what is known of it, that nothing is typed in, and that the report is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from infra.budget import load_catalog
from infra.errors import ConfigurationError
from tasks.audit import (
    Audit,
    Document,
    Kind,
    Quantity,
    as_data,
    as_markdown,
    chances,
    load_documents,
    load_quantities,
    named,
    run_audit,
)
from tasks.audit.claims import DATA_DIRECTORY

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def audit() -> Audit:
    return run_audit()


def _document(*claims: dict[str, object]) -> Document:
    sections = [{"section": "Costs", "claims": claims}]
    return Document.model_validate(
        {"document": "900", "title": "a test", "file": "900.md", "dated": "today", "sections": sections}
    )


def _small_audit(*claims: dict[str, object], quantities: tuple[Quantity, ...] = ()) -> Audit:
    return run_audit((_document(*claims),), {quantity.name: quantity for quantity in quantities})


def test_the_report_in_docs_is_what_the_code_gives(audit: Audit) -> None:
    committed = (ROOT / "docs" / "seed-audit.md").read_text(encoding="utf-8")
    assert as_markdown(audit) == committed, "run `sam2 audit` and commit docs/seed-audit.md"


@pytest.mark.parametrize(
    ("name", "kind", "recomputed"),
    [
        ("000.option-a-base-real", Kind.INCONSISTENT, 3 * 168 * 12),
        ("000.option-b-base-real", Kind.INCONSISTENT, 3 * 168 * 32.77),
        ("000.option-a-base", Kind.WRONG, 48_384),
        ("000.option-a-base-140", Kind.CONFIRMED, 40_320),
        ("000.memory-fits", Kind.INCONSISTENT, 86),
        ("000.conservative-total", Kind.CONFIRMED, 65_000),
        ("000.investment-recommended", Kind.INCONSISTENT, 65_000),
        ("000.success-events", Kind.WRONG, 61.2),
        ("002.flops", Kind.WRONG, 2_396_160),
        ("002.step-minutes", Kind.CONFIRMED, 1997 / 60),
        ("002.m1-parameters-4x", Kind.WRONG, 1.968e9),
        ("002.layers-drawn", Kind.INCONSISTENT, 8),
        ("002.warmup", Kind.WRONG, 2),
        ("003.weighted-hgrn2-5to1", Kind.WRONG, 6.60),
        ("003.weighted-gdn", Kind.WRONG, 6.70),
        ("003.weighted-hgrn2-3to1", Kind.CONFIRMED, 8.85),
        ("003.hgrn2-5to1-score", Kind.WRONG, 2.628),
        ("003.hgrn2-5to1-score-speed", Kind.CONFIRMED, 4.331),
        ("004.xl-hours-own", Kind.INCONSISTENT, 18_000),
    ],
)
def test_what_is_known(audit: Audit, name: str, kind: Kind, recomputed: float) -> None:
    row = named(audit, name)
    assert row.verdict.kind is kind
    assert row.recomputed is not None
    assert row.recomputed.low == pytest.approx(recomputed, rel=1e-3)


def test_the_first_stage_needs_three_times_its_hours_even_at_the_peak(audit: Audit) -> None:
    floor, usual = named(audit, "000.stage-1-hours-floor"), named(audit, "000.stage-1-hours")
    assert floor.recomputed is not None
    assert usual.recomputed is not None
    assert 2900 < floor.recomputed.low < 3100
    assert usual.recomputed.low == pytest.approx(2 * floor.recomputed.low)  # half the peak
    assert usual.effect_usd == pytest.approx((usual.recomputed.low - 1000) * 12 / 8)


def test_every_kind_of_verdict_occurs_and_the_counts_add_up(audit: Audit) -> None:
    assert all(audit.count(kind) for kind in Kind)
    assert sum(audit.count(kind) for kind in Kind) == len(audit.rows) > 400
    assert {document.document for document in audit.documents} == {"000", "001", "002", "003", "004"}


def test_the_simulation_is_described_as_it_is(audit: Audit) -> None:
    described = audit.functions["chance_percent"]
    assert f"{chances.DRAWS:,}" in described
    assert f"seed {chances.SEED}" in described


def test_no_verdict_is_typed_in() -> None:
    typed = {"verdict", "recomputed", "factor", "confirmed", "wrong"}
    for path in DATA_DIRECTORY.glob("*.yaml"):
        keys = set()
        stack: list[object] = [yaml.safe_load(path.read_text(encoding="utf-8"))]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                keys |= set(node)
                stack += node.values()
            elif isinstance(node, list):
                stack += node
        assert not keys & typed, path.name


def test_every_row_that_was_checked_says_what_it_rests_on(audit: Audit) -> None:
    known = {
        "arithmetic", "documents", "model", "published", "measured", "catalog", "profiles", "assumption", "simulation",
    }  # fmt: skip
    for row in audit.rows:
        checked = row.verdict.kind is not Kind.NOT_CHECKABLE
        assert bool(row.rests_on) == checked == (row.recomputed is not None), row.name
        assert set(row.rests_on) <= known, row.name


def test_every_quantity_is_used(audit: Audit) -> None:
    assert {used.quantity.name for used in audit.quantities} == set(load_quantities())


def test_the_costliest_are_one_of_each_topic_and_fall(audit: Audit) -> None:
    costliest = audit.costliest(10)
    assert len(costliest) == 10
    topics = [row.claim.topic or row.name for row in costliest]
    assert len(set(topics)) == 10
    effects = [row.effect_usd or 0.0 for row in costliest]
    assert effects == sorted(effects, reverse=True)
    assert all(row.verdict.kind in (Kind.WRONG, Kind.INCONSISTENT) for row in costliest)


def test_a_claim_recomputed_from_others_alone_is_inconsistent_with_them() -> None:
    total = {"id": "total", "claim": "all", "figure": "$100", "unit": "USD", "formula": "60 + 40"}
    share = {"id": "share", "claim": "half", "figure": "$40", "unit": "USD", "formula": "stated('900.total') / 2"}
    found = _small_audit(total, share)
    row = named(found, "900.share")
    assert row.verdict.text == "inconsistent with 900.total (factor 1.25, stated too low)"
    assert row.rests_on == ("documents",)
    assert row.effect_usd == pytest.approx(10)


def test_it_names_claims_that_quantities_bring_along() -> None:
    rate = {"id": "rate", "claim": "an hour", "figure": "$12", "unit": "USD", "formula": "12"}
    week = {"id": "week", "claim": "a week", "figure": "$40,320", "unit": "USD", "formula": "3 * 168 * hourly"}
    hourly = Quantity(name="hourly", formula="stated('900.rate')", unit="USD/h", basis="derived", meaning="an hour")
    row = named(_small_audit(rate, week, quantities=(hourly,)), "900.week")
    assert row.verdict.text == "inconsistent with 900.rate (factor 6.67, stated too high)"


def test_a_quantity_hands_on_what_it_rests_on() -> None:
    price = Quantity(name="price", value=2.0, unit="USD", basis="published", meaning="a price", source="a list, 2026")
    twice = Quantity(name="twice", formula="2 * price", unit="USD", basis="derived", meaning="two of them")
    claim = {"id": "two", "claim": "two", "figure": "$5", "unit": "USD", "formula": "twice * 1"}
    found = _small_audit(claim, quantities=(price, twice))
    assert named(found, "900.two").rests_on == ("published",)
    assert named(found, "900.two").verdict.kind is Kind.WRONG
    assert [used.quantity.name for used in found.quantities] == ["price", "twice"]


def test_a_quantity_that_follows_from_itself_is_refused() -> None:
    hen = Quantity(name="hen", formula="2 * egg", unit="", basis="derived", meaning="one")
    egg = Quantity(name="egg", formula="hen / 2", unit="", basis="derived", meaning="the other")
    claim = {"id": "one", "claim": "one", "figure": "1", "formula": "hen + 0"}
    with pytest.raises(ConfigurationError, match="'hen' follows from itself"):
        _small_audit(claim, quantities=(hen, egg))


def test_hours_become_dollars_by_their_price() -> None:
    claim = {"id": "time", "claim": "time", "figure": "100 hours", "formula": "150, 200", "usd_per_unit": "12 / 8"}
    assert named(_small_audit(claim), "900.time").effect_usd == pytest.approx(50 * 1.5)  # to the nearest end


def test_changed_prices_change_the_rows(audit: Audit) -> None:
    catalog = load_catalog()
    offers = tuple(offer.model_copy(update={"usd_per_hour": 2 * offer.usd_per_hour}) for offer in catalog.offers)
    claim = {"id": "rate", "claim": "AWS", "figure": "$32.77", "formula": "offer_usd('aws p4d.24xlarge on-demand')"}
    dearer = run_audit((_document(claim),), {}, catalog.model_copy(update={"offers": offers}))
    today, doubled = named(audit, "000.aws-rate").recomputed, named(dearer, "900.rate").recomputed
    assert today is not None
    assert doubled is not None
    assert doubled.low == pytest.approx(2 * today.low)


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("stated('900.none')", "no claim '900.none'"),
        ("offer_usd('aws p4d')", "no offer 'aws p4d'"),
        ("chance_percent('huge', 'stated')", "no tier 'huge'"),
    ],
)
def test_names_that_do_not_exist_are_named(formula: str, problem: str) -> None:
    # The chances are simulated with the founding curriculum's hours.
    claim = {"id": "one", "claim": "one", "figure": "1", "formula": formula}
    with pytest.raises(ConfigurationError, match=problem.replace("(", r"\(")):
        run_audit((_document(claim),), load_quantities())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "needs either a formula or a reason"),
        ({"formula": "1", "reason": "none"}, "needs either a formula or a reason"),
        ({"reason": "no data"}, "say in would_check"),
        ({"formula": "1", "figure": "same speed"}, "no number in"),
        ({"formula": "1", "verdict": "wrong"}, "Extra inputs"),
    ],
)
def test_data_that_explains_nothing_is_refused(fields: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        _document({"id": "one", "claim": "one", "figure": "1"} | fields)


def test_an_identifier_is_given_once() -> None:
    claim = {"id": "one", "claim": "one", "figure": "1", "formula": "1"}
    with pytest.raises(ValueError, match="there twice"):
        _document(claim, claim)


def test_the_data_for_programs_is_json_and_complete(audit: Audit) -> None:
    data = json.loads(json.dumps(as_data(audit)))
    assert [claim["id"] for claim in data["claims"]] == [row.name for row in audit.rows]
    assert data["counts"]["wrong"] == audit.count(Kind.WRONG)
    assert data["costliest"] == [row.name for row in audit.costliest(10)]


def test_every_claim_has_a_row_in_the_report(audit: Audit) -> None:
    text = as_markdown(audit)
    for document in load_documents():
        for section in document.sections:
            assert f"### {section.section}" in text
            for claim in section.claims:
                assert f"| {claim.id} |" in text
