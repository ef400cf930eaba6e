"""The risk model of an option has the plan's hours and dollars; the tiers have their options and chances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tasks.planning import Machine, MeasuredRate, plan
from tasks.planning.presentation import (
    PlanRisk,
    ProjectInputs,
    headline,
    load_project,
    plan_metrics,
    plan_risk,
    risk_model,
)
from tasks.planning.presentation.plan_risk import FOUNDING_FLOPS
from tasks.planning.presentation.risk_tables import chance_text, figure_title, people_table, risk_table, tier_table
from tasks.risk import SEED_EVENTS
from tests.tasks.planning.plan_requests import DAY
from tests.tasks.planning.presentation.plans import small_catalog, small_plan, small_request

DRAWS = 400
PROJECT = ProjectInputs()


@pytest.fixture(scope="module")
def risk() -> PlanRisk:
    found = plan_risk(small_plan(budget_usd=500.0), PROJECT, draws=DRAWS)
    assert found is not None
    return found


def test_the_model_has_the_hours_and_the_training_dollars_of_the_plan() -> None:
    option = small_plan().option("own slow on-demand")
    assert option.cost is not None
    model = risk_model(small_plan(), option)
    assert model.planned_training_hours == pytest.approx(option.training_hours)
    assert model.planned_training_hours * model.paid_usd_per_hour == pytest.approx(option.cost.compute_usd)
    rented = sum(line.usd.mean for line in model.lines)
    cost = option.cost
    assert rented == pytest.approx(cost.total_usd - cost.compute_usd - cost.contingency_usd)
    assert model.interruptions is None


def test_spot_is_interrupted_as_often_as_its_instances_are_taken_away() -> None:
    model = risk_model(small_plan(), small_plan().option("2 x own slow spot"))
    assert model.interruptions is not None
    assert model.interruptions.per_hour.mean == pytest.approx(2 * 0.05)  # of two instances, each so often
    assert model.interruptions.checkpoint_interval_hours == pytest.approx(600 / 3600)


def test_a_small_training_has_its_share_of_the_founding_events_and_a_large_one_all_of_them() -> None:
    small, option = small_plan(), small_plan().option("own slow on-demand")
    share = small.total_flops / FOUNDING_FLOPS
    assert share < 0.1
    large = small.model_copy(
        update={"flops": tuple(s.model_copy(update={"tokens": s.tokens * 10_000}) for s in small.flops)}
    )
    for founding, scaled_down, whole in zip(
        SEED_EVENTS, risk_model(small, option).events, risk_model(large, option).events, strict=True
    ):
        assert scaled_down.usd.mean == pytest.approx(share * founding.usd.mean)
        assert scaled_down.delay_hours.mean == pytest.approx(share * founding.delay_hours.mean)
        assert scaled_down.extra_training == founding.extra_training
        assert whole == founding


def test_people_are_part_of_the_project_alone() -> None:
    option = small_plan().option("own slow on-demand")
    alone, project = risk_model(small_plan(), option), risk_model(small_plan(), option, PROJECT)
    added = {line.name for line in project.lines} - {line.name for line in alone.lines}
    assert added == set(PROJECT.people_usd)
    assert [phase.name for phase in (*project.preparation, *project.wrap_up)] == ["implementation", "validation"]
    assert not alone.preparation


def test_a_measured_machine_is_as_uncertain_as_its_calibration() -> None:
    machine = Machine(
        usd_per_hour=0.001,
        rates=(MeasuredRate(stage="short", context_tokens=1024, tokens_per_second=1000.0),),
        relative_error=0.04,
        source="a test",
    )
    made = plan(small_request().model_copy(update={"machine": machine}), small_catalog(), today=DAY)
    own = next(option for option in made.options if option.offer is None)
    model = risk_model(made, own)
    assert model.mfu_ratio.model_dump() == {"kind": "lognormal", "median": 1.0, "sigma": 0.04}
    assert model.price_ratio.sd == 0
    label, sentence = headline(made).lines[0]
    assert (label, "GPU" in sentence) == ("Recommended", False)  # it is the cheapest, and may have none
    assert sentence.endswith("on this machine")


def test_an_option_that_does_not_fit_has_no_risk() -> None:
    assert plan_risk(small_plan(gpu_memory_gb=0.1), PROJECT, draws=DRAWS) is None
    with pytest.raises(ValueError, match="does not fit"):
        risk_model(small_plan(gpu_memory_gb=0.1), small_plan(gpu_memory_gb=0.1).options[0])


def test_each_tier_buys_as_it_says(risk: PlanRisk) -> None:
    bought = {tier.tier: tier.option for tier in risk.tiers}
    assert bought == {
        "aggressive": "own slow spot",
        "conservative": "own slow on-demand",
        "enterprise": "aws quick on-demand",
    }
    for tier in risk.tiers:
        assert tier.result.budgets[0].limit == tier.budget_usd == PROJECT.tier_budgets_usd[tier.tier]


def test_more_money_is_never_less_likely_to_be_enough() -> None:
    option = small_plan().option("own slow spot")
    middle = risk_model(small_plan(), option, PROJECT)
    found = plan_risk(small_plan(), PROJECT, draws=DRAWS)
    assert found is not None
    chances = [chance.probability for chance in found.project.budgets]
    assert chances == sorted(chances)
    assert found.project.model == middle


def test_the_tables_have_the_simulation_s_figures(risk: PlanRisk) -> None:
    rows = {row[0]: row for row in risk_table(risk).rows}
    assert "preemptions" in rows
    expected = f"${risk.project.cost_usd.p50:,.0f}"
    assert rows["with people's work, USD"][4] == expected
    assert [row[0] for row in tier_table(risk).rows] == ["aggressive", "conservative", "enterprise"]
    assert people_table(PROJECT).rows[-1] == ("all", "$19,500")


def test_the_risk_reads_back_from_json(risk: PlanRisk) -> None:
    assert PlanRisk.model_validate(json.loads(risk.model_dump_json())) == risk


def test_metrics_name_every_stage_and_the_chance_of_the_budget(risk: PlanRisk) -> None:
    metrics = plan_metrics(small_plan(budget_usd=500.0), risk)
    assert all(name.startswith("plan/") for name in metrics)
    option = small_plan(budget_usd=500.0).option(risk.option)
    assert metrics["plan/usd"] == option.usd
    assert metrics["plan/stages/long/hours"] == option.stages[1].hours
    assert metrics["plan/risk/p_within_budget"] == risk.infrastructure.budgets[0].probability
    assert "plan/usd" not in plan_metrics(small_plan(gpu_memory_gb=0.1))


def test_chances_are_never_certain() -> None:
    assert [chance_text(p) for p in (0.0, 0.25, 0.9995, 1.0)] == ["under 0.1%", "25.0%", "over 99.9%", "over 99.9%"]


def test_figures_are_named_for_people() -> None:
    assert figure_title("event/training failure/extra") == "training failure: extra training"
    assert figure_title("event/dataset quality") == "dataset quality"
    assert figure_title("line/A/B tests") == "A/B tests"
    assert figure_title("mfu") == "MFU achieved over planned"


def test_a_project_file_replaces_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "project.yaml"
    path.write_text("source: ours\ndevelopment_usd: {work: 5000}\nannual_value_usd: 20000\n")
    project = load_project(path)
    assert project.development_usd == {"work": 5000.0}
    assert project.validation_usd == PROJECT.validation_usd


@pytest.mark.parametrize(
    ("text", "said"),
    [("anual_value_usd: 5", "anual_value_usd"), ("annual_value_usd: much", "annual_value"), ("[", "YAML")],
)
def test_a_wrong_project_file_is_refused_with_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "project.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_project(path)


def test_a_missing_project_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_project(tmp_path / "none.yaml")
