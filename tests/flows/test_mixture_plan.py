"""The large profiles' mixtures: their shares, what they say of gated and withdrawn data, and the plan as a table."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.configuration import PROFILE_DIRECTORY, load_profile, profile_content
from flows.mixture_plan import main, mixture_plan
from infra.errors import ConfigurationError
from tasks.download.mixture import plan_mixture, training_demand

PROFILES = sorted(path.stem for path in PROFILE_DIRECTORY.glob("*.yaml"))
MIXED = [name for name in PROFILES if "mixture" in profile_content(name)["download"]]


def test_there_are_profiles_with_mixtures() -> None:
    assert {"eight-sources", "fineweb-edu", "sam2-5.5b", "mamba-slm-1.3b"} <= set(MIXED)


@pytest.mark.parametrize("name", MIXED)
def test_the_curriculum_draws_what_the_mixture_plans(name: str) -> None:
    config = load_profile(name)
    assert config.download.mixture is not None
    demand = training_demand((stage.tokens, stage.mixture) for stage in config.curriculum)
    planned = {p.source.name: p.training_tokens for p in plan_mixture(config.download.sources, config.download.mixture)}
    assert demand == pytest.approx(planned, rel=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_every_source_states_its_licence_and_comes_from_one_place(name: str) -> None:
    for source in load_profile(name).download.sources:
        assert source.licence != "unknown", source.name
        assert "books3" not in source.uri.lower()


def test_the_eight_sources_have_the_shares_of_the_roadmap_and_say_what_stands_in() -> None:
    config = load_profile("eight-sources")
    rows = {row["Source"]: row for row in mixture_plan(config)}
    assert {name: row["Weight"] for name, row in rows.items() if name != "all"} == {
        "c4": "30.0%", "pile": "25.0%", "starcoder": "15.0%", "books": "10.0%", "wikipedia": "5.0%", "arxiv": "5.0%",
        "openwebtext": "5.0%", "stack-exchange": "5.0%",
    }  # fmt: skip
    assert "gated" in rows["starcoder"]["Note"]
    assert "withdrawn" in rows["books"]["Note"]
    assert "withdrawn" in rows["pile"]["Note"]
    assert all(float(row["Epochs"]) <= 4 for name, row in rows.items() if name != "all")


def test_a_curriculum_that_draws_more_than_planned_is_refused() -> None:
    greedy = load_profile("fineweb-edu").curriculum[0].model_copy(update={"tokens": 2 * 10**11})
    config = load_profile("fineweb-edu").model_copy(update={"curriculum": (greedy,)})
    with pytest.raises(ConfigurationError, match=r"draws 200,000,000,000 tokens of 'fineweb-edu'"):
        mixture_plan(config)


def test_the_command_shows_the_plan_or_says_what_is_missing() -> None:
    import typer

    app = typer.Typer()
    app.command()(main)
    shown = CliRunner().invoke(app, ["eight-sources"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "stack-exchange" in shown.output
    assert "set HF_TOKEN" in shown.output
    refused = CliRunner().invoke(app, ["miniature"])
    assert refused.exit_code == 1
