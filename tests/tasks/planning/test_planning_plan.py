"""The whole plan: choices against brute force, monotone costs, JSON there and back, remedies that hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.budget import PriceCatalog, load_catalog
from model import preset
from tasks.planning import (
    Assumptions,
    BudgetPlan,
    CorpusFacts,
    Machine,
    MeasuredRate,
    PlanRequest,
    plan,
)
from tasks.planning.remedies import affordable_share
from tests.tasks.planning.plan_requests import DAY, catalog, offer, request, stage

OFFERS = catalog(
    offer("slow", 8.0, peak_bf16_teraflops=156),
    offer("plain", 20.0),
    offer("plain", 8.0, variant="spot", preemptions_per_hour=0.05),
    offer("fast", 90.0, peak_bf16_teraflops=989),
    offer("tight", 1.0, gpu_memory_gb=2, cpu_memory_gb=1),
)
PLAN = plan(request("large"), OFFERS, today=DAY)
HOURS = sorted(option.training_hours for option in PLAN.usable())
DOLLARS = sorted(option.usd for option in PLAN.usable())


def test_options_are_sorted_by_cost_and_what_does_not_fit_comes_last() -> None:
    assert [option.usd for option in PLAN.options] == sorted(option.usd for option in PLAN.options)
    assert not PLAN.options[-1].fits
    assert len({option.name for option in PLAN.options}) == len(PLAN.options)


@given(deadline=st.floats(HOURS[0] / 2, HOURS[-1] * 2))
def test_cheapest_by_is_the_cheapest_that_keeps_the_deadline(deadline: float) -> None:
    found = PLAN.cheapest_by(deadline)
    in_time = [option for option in PLAN.usable() if option.training_hours <= deadline]
    if found is None:
        assert not in_time
    else:
        assert found in in_time
        assert all(found.usd <= option.usd for option in in_time)


@given(budget=st.floats(DOLLARS[0] / 2, DOLLARS[-1] * 2))
def test_fastest_within_is_the_fastest_that_keeps_the_budget(budget: float) -> None:
    found = PLAN.fastest_within(budget)
    affordable = [option for option in PLAN.usable() if option.usd <= budget]
    if found is None:
        assert not affordable
    else:
        assert found in affordable
        assert all(found.training_hours <= option.training_hours for option in affordable)


def cheapest_usd(asked: PlanRequest, prices: PriceCatalog) -> float:
    return plan(asked, prices, today=DAY).usable()[0].usd


@settings(max_examples=8)
@given(tokens=st.integers(1 << 28, 1 << 34), more=st.floats(1.01, 10))
def test_more_tokens_never_cost_less(tokens: int, more: float) -> None:
    alone = Assumptions(largest_fleet=1)
    model = preset("tiny")
    few, many = (
        request(stages=(stage(model, tokens=count),), assumptions=alone) for count in (tokens, int(tokens * more))
    )
    prices = catalog(offer())
    assert cheapest_usd(few, prices) <= cheapest_usd(many, prices)


@settings(max_examples=8)
@given(price=st.floats(0.1, 1000), more=st.floats(1, 10))
def test_a_higher_price_never_costs_less(price: float, more: float) -> None:
    asked = request("tiny", assumptions=Assumptions(largest_fleet=1))
    assert cheapest_usd(asked, catalog(offer(usd_per_hour=price))) <= cheapest_usd(
        asked, catalog(offer(usd_per_hour=price * more))
    )


def test_json_and_back() -> None:
    again = BudgetPlan.model_validate_json(PLAN.model_dump_json())
    assert again == PLAN
    assert again.usable()[0].usd == PLAN.usable()[0].usd


def test_sums_are_in_the_json() -> None:
    data = PLAN.model_dump(mode="json")
    assert data["parameters"]["total"] == PLAN.parameters.total
    assert data["total_flops"] == PLAN.total_flops
    assert data["options"][0]["cost"]["total_usd"] == PLAN.options[0].usd


def test_nothing_is_rejected_without_limits_but_what_cannot_be_used() -> None:
    assert {entry.option for entry in PLAN.rejections} == {o.name for o in PLAN.options if not o.is_usable}
    assert PLAN.remedies == ()


def test_every_reason_is_given() -> None:
    strict = plan(request("large", budget_usd=1.0, deadline_hours=1e-3), OFFERS, today=DAY)
    reasons = {entry.option: " ".join(entry.reasons) for entry in strict.rejections}
    assert len(reasons) == len(strict.options)
    usable = strict.usable()[0].name
    assert "over the deadline" in reasons[usable]
    assert "over the budget" in reasons[usable]
    assert "does not fit" in reasons[strict.options[-1].name]


def test_the_tokens_that_a_budget_buys_cost_that_budget() -> None:
    asked = request("large")
    whole = plan(asked, OFFERS, today=DAY).usable()[0]
    budget = whole.usd / 2
    poor = plan(asked.model_copy(update={"budget_usd": budget}), OFFERS, today=DAY)
    remedies = {remedy.kind: remedy for remedy in poor.remedies}
    assert remedies["budget"].value == pytest.approx(whole.usd)
    tokens = int(remedies["tokens"].value)
    shorter = request("large", stages=(stage(asked.model, tokens=tokens),), budget_usd=budget)
    # Training alone is taken to shrink: storage is paid for a shorter time too, and the last update is whole.
    assert plan(shorter, OFFERS, today=DAY).usable()[0].usd == pytest.approx(budget, rel=0.01)


def test_the_smaller_model_of_the_family_that_fits_the_budget_is_named() -> None:
    asked = request("large")
    budget = cheapest_usd(request("medium"), OFFERS) * 1.01
    poor = plan(asked.model_copy(update={"budget_usd": budget}), OFFERS, today=DAY)
    (model,) = [remedy for remedy in poor.remedies if remedy.kind == "model"]
    assert "medium" in model.text
    assert model.value == plan(request("medium"), OFFERS, today=DAY).parameters.total


def test_a_deadline_that_nothing_keeps_is_answered_with_the_soonest() -> None:
    late = plan(request("large", deadline_hours=1e-3), OFFERS, today=DAY)
    (remedy,) = late.remedies
    assert remedy.kind == "deadline"
    assert remedy.value == min(option.training_hours for option in late.usable())


def test_a_budget_below_what_is_fixed_buys_no_tokens() -> None:
    cost = PLAN.usable()[0].cost
    assert cost is not None
    assert affordable_share(cost, 0.0) == 0.0
    assert affordable_share(cost, cost.total_usd) == pytest.approx(1.0)
    assert affordable_share(cost, 10 * cost.total_usd) == 1.0


def test_no_money_and_no_time_are_answered_too() -> None:
    found = plan(request("tiny", budget_usd=0, deadline_hours=0), catalog(offer()), today=DAY)
    assert [remedy.kind for remedy in found.remedies] == ["deadline", "budget"]


def test_warnings_tell_old_prices_and_assumed_utilisation() -> None:
    assert not any("days old" in warning for warning in PLAN.warnings)
    assert any("assume an MFU of 40%: a test" in warning for warning in PLAN.warnings)
    set_mfu = plan(request("tiny", assumptions=Assumptions(mfu=0.5)), OFFERS, today=DAY)
    assert any("MFU of 50%" in warning for warning in set_mfu.warnings)
    assert all(time.mfu == pytest.approx(0.5 / (1 + time.slowdown)) for o in set_mfu.options for time in o.stages)


def test_prices_that_follow_from_others_and_models_too_small_are_told() -> None:
    derived = catalog(offer(), offer(variant="spot", usd_per_hour=4.0, derived=True))
    warnings = plan(request("tiny"), derived, today=DAY).warnings
    assert any("1 of 2 prices were published nowhere" in warning for warning in warnings)
    assert any("10.0M parameters" in warning for warning in warnings)
    assert not any("parameters" in warning or "nowhere" in warning for warning in PLAN.warnings)


def test_a_measured_machine_stands_beside_the_offers() -> None:
    model = preset("small")
    stages = (stage(model, name="first", context=512), stage(model, name="second", context=2048))
    machine = Machine(
        name="mine", usd_per_hour=0.5, source="a calibration", cores=2,
        rates=(MeasuredRate(stage="first", context_tokens=512, tokens_per_second=1000.0),),
    )  # fmt: skip
    found = plan(request(stages=stages, machine=machine), OFFERS, today=DAY)
    option = found.option("mine")
    first, second = option.stages
    assert option.placed_as == "measured"
    assert first.hours == pytest.approx((1 << 30) / 1000 / 3600)
    ratio = found.flops[0].per_token / found.flops[1].per_token
    assert second.tokens_per_second == pytest.approx(1000 * ratio)
    assert option.cost is not None
    assert option.cost.compute_usd == pytest.approx(0.5 * option.training_hours)
    assert option.cost.storage_usd == 0
    assert option.cost.preprocessing_usd == pytest.approx(sum(found.corpus.core_hours.values()) / 2 * 0.5)
    assert any("scaled by FLOPs: second" in note for note in option.notes)


def test_a_request_whose_stages_disagree_is_refused() -> None:
    small = preset("small")
    corpus = CorpusFacts(fetched_bytes=1.0)
    with pytest.raises(ValueError, match="same ranks"):
        PlanRequest(profile="x", model=small, stages=(stage(small), stage(small, ranks=4, name="b")), corpus=corpus)
    with pytest.raises(ValueError, match="must train `model`"):
        PlanRequest(profile="x", model=preset("tiny"), stages=(stage(small),), corpus=corpus)


def test_the_shipped_catalog_plans_the_founding_model() -> None:
    """The 5.5B model on 100B tokens at 4K: thousands of A100-hours, whatever the provider."""
    long_stage = stage(preset("sam2-5.5b"), context=4096, tokens=100_000_000_000, batch_tokens=1 << 21)
    found = plan(request(stages=(long_stage,), assumptions=Assumptions(largest_fleet=1)), load_catalog(), today=DAY)
    lambda_box = found.option("lambda 8x A100 on-demand [founding]")
    assert lambda_box.gpu_hours == pytest.approx(7500, rel=0.05)  # at 40%; the founding report planned 1,000
    assert lambda_box.cost is not None
    assert lambda_box.cost.compute_usd == pytest.approx(lambda_box.training_hours * 12.0)
    assert {option.offer.provider for option in found.usable() if option.offer} == {"aws", "gcp", "azure", "lambda"}
