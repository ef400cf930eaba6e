"""`sam2 plan`: what it prints, writes and refuses; and the request it makes of a profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from flows.configuration import PROFILE_DIRECTORY, load_profile
from flows.plan_making import PlanChoices, make_plan
from flows.plan_request import corpus_facts, plan_request
from flows.planning_commands import add_planning_commands
from infra.budget import load_catalog
from infra.budget.catalog_file import SHIPPED_CATALOG
from infra.errors import ConfigurationError
from tasks.calibration import CalibrationStore, Setup, this_hardware
from tasks.planning import BudgetPlan
from tasks.planning.presentation import PlanRisk
from tests.tasks.calibration.synthetic import calibration

PROFILES = sorted(path.stem for path in PROFILE_DIRECTORY.glob("*.yaml"))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("SAM2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    application = typer.Typer()
    application.callback()(lambda: None)
    add_planning_commands(application)
    return application


@pytest.fixture(scope="module")
def catalog_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machines of the shipped catalog, so that plans are made quickly."""
    content = yaml.safe_load(SHIPPED_CATALOG.read_text())
    content["instances"] = [
        instance for instance in content["instances"] if instance["instance"] in ("p5.48xlarge", "8x H100")
    ]
    path = tmp_path_factory.mktemp("catalog") / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_answer_for_the_large_profile_comes_first(app: typer.Typer, catalog_file: Path) -> None:
    lines = run(app, "--profile", "sam2-5.5b", "--catalog", str(catalog_file), "--no-risk").splitlines()
    assert lines[0].startswith("sam2-5.5b: 5.64B parameters, 136B tokens")
    assert lines[1].startswith("Recommended")
    assert max(map(len, lines)) <= 100
    assert not any("Risk" in line for line in lines)


def test_json_is_the_plan_and_its_risk_and_nothing_else(app: typer.Typer, catalog_file: Path) -> None:
    content = json.loads(run(app, "--profile", "smoke", "--catalog", str(catalog_file), "--json", "--budget-usd", "5"))
    plan = BudgetPlan.model_validate(content["plan"])
    assert (plan.request.profile, plan.request.budget_usd) == ("smoke", 5.0)
    risk = PlanRisk.model_validate(content["risk"])
    assert risk.infrastructure.budgets[0].limit == 5.0


def test_choices_reach_the_plan(tmp_path: Path, catalog_file: Path) -> None:
    choices = PlanChoices(
        mfu=0.25, contingency=0.0, deadline_days=2, providers=("aws",), variants=("on-demand",), catalog=catalog_file,
        risk=False,
    )  # fmt: skip
    made = make_plan("smoke", {"training": {"seed": 3}}, choices, tmp_path)
    assert made.plan.request.deadline_hours == 48
    assert made.config.training.seed == 3
    assert {(option.offer.provider, option.offer.variant) for option in made.plan.options if option.offer} == {
        ("aws", "on-demand")
    }
    option = made.plan.options[0]
    assert option.stages[0].mfu is not None
    assert option.stages[0].mfu <= 0.25
    assert option.cost is not None
    assert option.cost.contingency_usd == 0
    assert made.risk is None
    assert made.findings() is None


def test_the_profile_s_ceiling_is_the_budget_unless_another_is_said() -> None:
    config = load_profile("smoke", {"budget": {"ceiling_usd": 7}})
    assert plan_request(config).budget_usd == 7
    assert plan_request(config, budget_usd=9).budget_usd == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--provider", "nobody"), "nobody"),
        (("--variant", "borrowed"), "borrowed"),
        (("--provider", "lambda", "--variant", "spot"), "no offer of lambda bought spot"),
        (("--set", "training.rank=2"), "training.rank"),
        (("--budget-usd", "0"), "budget_usd"),
        (("--profile", "none-such"), "none-such"),
        (("--catalog", "/nowhere/prices.yaml"), r"prices\.yaml"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(app: typer.Typer, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        run(app, "--no-risk", *arguments)


def test_output_writes_the_report_with_its_pictures_and_the_ladder(
    app: typer.Typer, catalog_file: Path, tmp_path: Path
) -> None:
    place = tmp_path / "plan"
    text = run(app, "--profile", "miniature", "--catalog", str(catalog_file), "--no-risk", "--ladder",
               "--output", str(place))  # fmt: skip
    names = {path.name for path in place.iterdir()}
    assert names == {
        "plan.json", "plan.md", "memory.png", "flops-per-token.png", "cost-by-option.png", "cost-against-time.png"
    }  # fmt: skip
    assert "The ladder of sizes" in text
    assert "The ladder of sizes" in (place / "plan.md").read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_makes_a_request_with_its_own_data(name: str) -> None:
    config = load_profile(name)
    request = plan_request(config)
    assert [stage.name for stage in request.stages] == [stage.name for stage in config.training_stages()]
    facts = request.corpus
    if config.download.mixture is None:
        assert facts.tokens == pytest.approx(request.training_tokens)
        assert facts.source.startswith("assumption")
    else:
        assert facts.tokens <= config.download.mixture.tokens * 1.001
        assert facts.fetched_bytes > facts.kept_bytes > 0


def test_the_corpus_of_the_large_profile_is_what_its_mixture_fetches() -> None:
    facts = corpus_facts(load_profile("sam2-5.5b"))
    assert facts.fetched_bytes == pytest.approx(882.5e9, rel=0.001)
    assert facts.bytes_per_token == 4.2


def test_a_calibration_of_this_machine_stands_beside_the_offers(tmp_path: Path, catalog_file: Path) -> None:
    stages = load_profile("smoke").training_stages()
    measured = calibration(model=stages[0].model, setup=Setup.of(stages[0]), hardware=this_hardware())
    CalibrationStore.of_home(tmp_path).save(measured)
    made = make_plan("smoke", {}, PlanChoices(catalog=catalog_file, risk=False), tmp_path)
    machine = made.plan.request.machine
    assert machine is not None
    assert f"{measured.measured_at:%Y-%m-%d}" in machine.source
    own = next(option for option in made.plan.options if option.offer is None)
    expected_hours = sum(measured.stage_seconds(stage) for stage in stages) / 3600
    assert own.training_hours == pytest.approx(expected_hours)
    elsewhere = make_plan("smoke", {}, PlanChoices(catalog=catalog_file, risk=False), tmp_path / "other")
    assert elsewhere.plan.request.machine is None


def test_the_shipped_catalog_can_be_narrowed_to_each_of_its_providers() -> None:
    from flows.plan_making import offered

    catalog = load_catalog()
    for provider in {offer.provider for offer in catalog.offers}:
        found = offered(catalog, PlanChoices(providers=(provider,)))
        assert {offer.provider for offer in found.offers} == {provider}
