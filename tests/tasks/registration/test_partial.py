"""A model whose training was stopped early: registered as what it is, served, and no champion by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from judged import FAILED, PASSED, answered
from mlflow import MlflowClient
from pydantic import ValidationError

from infra.artifacts import Artifact, ArtifactStore, build_stage, plan_fingerprint
from infra.errors import PipelineError
from tasks.registration import STAGE, PartialTraining, RegistrationConfig, partial_training
from tasks.registration.champion import PromotionRefused
from tasks.registration.registry import ensure_registered, find_version, promote
from tasks.training import TrainingStageConfig, shorten_curriculum, stop_at
from tests.tasks.registration.conftest import publish
from tests.tasks.training.conftest import stage_config

Make = Callable[..., Artifact]
STAGES = [stage_config(name="short"), stage_config(name="long", context_tokens=64, tokens=20 * 256)]
DONE = {"short": 12, "long": 5}
REASON = "the budget of 5 USD <b>is</b> spent."


def partial() -> PartialTraining:
    found = partial_training(STAGES, stop_at(STAGES, DONE), REASON)
    assert found is not None
    return found


@pytest.fixture
def make_partial(store: ArtifactStore, chain: dict[str, Artifact]) -> Make:
    """A bundle of a stopped run: of the inputs there are, all or `only` some."""

    def make(only: Sequence[str] = ("checkpoint", "tokens"), extra: dict[str, Artifact] | None = None) -> Artifact:
        settings = RegistrationConfig(model_name="tiny", formats=("int8", "q8_0"), partial=partial())
        inputs = {name: artifact for name, artifact in {**chain, **(extra or {})}.items() if name in only}
        return build_stage(STAGE, settings, inputs, store).artifact

    return make


def test_what_was_kept_is_counted_against_the_plan() -> None:
    found = partial()
    assert [(stage.name, stage.steps, stage.planned_steps) for stage in found.stages] == [
        ("short", 12, 12),
        ("long", 5, 20),
    ]
    assert (found.tokens, found.planned_tokens) == (17 * 256, 32 * 256)
    assert found.sentence == (
        "Training was stopped early, after 4,352 of 8,192 planned tokens (53%): 1 of 2 stages are whole, and stage "
        "'long' ended at update 5 of 20. Reason: the budget of 5 USD <b>is</b> spent."
    )


def test_a_dropped_stage_makes_a_model_partial_and_a_shortened_one_does_not() -> None:
    dropped = partial_training(STAGES, stop_at(STAGES, {"short": 12}), "no money")
    assert dropped is not None and [stage.steps for stage in dropped.stages] == [12, 0]
    shortened = shorten_curriculum(STAGES, DONE, 0.1, minimum_steps=1)
    assert partial_training(STAGES, shortened, "no money") is None
    ended: list[TrainingStageConfig] = stop_at(shortened, {"short": 12, "long": shortened[1].steps})
    assert partial_training(STAGES, ended, "no money for the evaluation") is None


def test_a_model_of_which_nothing_is_missing_is_not_partial() -> None:
    whole = partial().stages[0]
    with pytest.raises(ValidationError, match="leave partial out"):
        PartialTraining(stages=(whole,), reason="no money")


def test_whole_models_keep_their_fingerprints() -> None:
    inputs = {"tokens": "tokens/x"}
    assert "partial" not in RegistrationConfig().identity()
    # As computed before there were partial models.
    assert plan_fingerprint(STAGE, RegistrationConfig(), inputs) == "0dfc694e3e096dafc6e9cc37c36ee7ed"
    config = RegistrationConfig(partial=partial())
    assert plan_fingerprint(STAGE, config, inputs) != plan_fingerprint(STAGE, RegistrationConfig(), inputs)


def test_the_bundle_holds_the_model_alone_and_says_so(make_partial: Make) -> None:
    made = make_partial()
    assert {entry.path for entry in made.manifest.files} == {
        "model/config.json", "model/model.safetensors", "tokenizer.json", "model_card.md", "lineage.json",
    }  # fmt: skip
    statistics = made.manifest.statistics
    assert statistics["gates_passed"] is False and statistics["explanation"] == "Not evaluated: stopped early."
    assert statistics["formats"] == ["fp32"]
    assert (statistics["partial"]["tokens"], statistics["partial"]["planned_tokens"]) == (17 * 256, 32 * 256)
    assert statistics["partial"]["reason"] == REASON
    card = (made.directory / "model_card.md").read_text()
    assert card.splitlines()[2].startswith("> **Partial model.** Training was stopped early, after 4,352 of 8,192")
    assert "&lt;b>is&lt;/b>" in card and "`evaluation/`" not in card
    assert card.count("Not run.") == 3, "gates, evaluation, quantization"


def test_it_is_registered_as_partial_and_never_becomes_champion_by_itself(tracking: str, make_partial: Make) -> None:
    registered = ensure_registered(make_partial(), tracking)
    assert registered.aliases == ["partial"], "neither candidate nor champion, though there is no other"
    assert registered.note == (
        "Partial: 4,352 of 8,192 planned tokens; not evaluated: stopped early. "
        "It is not champion: not evaluated: stopped early."
    )
    tags = MlflowClient(tracking_uri=tracking).get_model_version("tiny", registered.version).tags
    assert (tags["sam2.partial"], tags["sam2.partial_tokens"]) == ("true", "4,352 of 8,192")
    assert (tags["sam2.gates"], tags["sam2.gates_passed"]) == ("not evaluated", "false")
    assert ensure_registered(make_partial(), tracking).aliases == ["partial"], "again, the same"
    with pytest.raises(PromotionRefused, match=r"may not become champion: not evaluated: stopped early\."):
        promote(tracking, "tiny", "partial")


def test_a_whole_model_takes_over_from_a_partial_champion_without_a_comparison(
    tracking: str, make_partial: Make, make_bundle: Make
) -> None:
    first = ensure_registered(make_partial(), tracking)
    forced = promote(tracking, "tiny", first.version, anyway=True, reason="there is nothing else")
    assert forced.aliases == ["champion", "partial"]
    whole = ensure_registered(make_bundle("a", [PASSED], answered(100)), tracking)
    assert whole.aliases == ["candidate", "champion"]
    assert "there is no evaluation of tiny version 1, whose training was stopped early" in whole.note


def test_a_later_partial_model_leaves_candidate_and_champion_where_they_are(
    tracking: str, make_partial: Make, make_bundle: Make
) -> None:
    whole = make_bundle("1", [PASSED])
    ensure_registered(whole, tracking)
    assert ensure_registered(make_partial(), tracking).aliases == ["partial"]
    again = find_version(tracking, "tiny", whole.manifest.fingerprint)
    assert again is not None and again.aliases == ["candidate", "champion"]


@pytest.mark.parametrize(("gate", "told"), [(PASSED, "Stopped early."), (FAILED, "Stopped early; eval/bits_per_byte")])
def test_what_there_is_of_evaluation_and_formats_is_kept_and_passes_nothing(
    tracking: str, make_partial: Make, store: ArtifactStore, chain: dict[str, Artifact], gate: dict[str, Any], told: str
) -> None:
    judged = publish(
        store, "evaluation", f"partial {told}", lambda directory: None, tables={"gates": [gate]},
        inputs={"checkpoint": chain["checkpoint"].reference}, metrics={"eval/bits_per_byte": 2.4},
    )  # fmt: skip
    made = make_partial(("checkpoint", "tokens", "evaluation", "quantized"), {"evaluation": judged})
    assert made.manifest.statistics["explanation"].startswith(told)
    assert made.manifest.statistics["formats"] == ["fp32", "int8"]
    assert made.manifest.metrics["eval/bits_per_byte"] == 2.4
    assert not ensure_registered(made, tracking).is_champion
    with pytest.raises(PipelineError, match="may not become champion: stopped early"):
        promote(tracking, "tiny", "partial")


def test_a_shortened_curriculum_that_came_to_its_end_is_told_and_no_obstacle(
    tracking: str, store: ArtifactStore, chain: dict[str, Artifact]
) -> None:
    (short,) = shorten_curriculum(STAGES[:1], {"short": 2}, 0.5, minimum_steps=1)
    checkpoint = publish(
        store, "checkpoint", "shortened", lambda directory: _copy_model(chain["checkpoint"], directory),
        stage="training", inputs={"tokens": chain["tokens"].reference}, config=short.identity(),
        statistics={"shortening": short.shortening, "steps": short.steps},
    )  # fmt: skip
    judged = publish(
        store, "evaluation", "shortened", lambda directory: None, tables={"gates": [PASSED]},
        inputs={"checkpoint": checkpoint.reference},
    )  # fmt: skip
    inputs = {**chain, "checkpoint": checkpoint, "evaluation": judged}
    made = build_stage(STAGE, RegistrationConfig(model_name="tiny"), inputs, store).artifact
    told = "tage 'short' was shortened from 12 to 7 updates after update 2"
    card = (made.directory / "model_card.md").read_text()
    assert f"**S{told}.**" in card
    assert "| short | 32 | 1792 | 256 | 0.003 | 0.0003 | 3072 |" in card, "tokens trained on, and planned"
    registered = ensure_registered(made, tracking)
    assert registered.aliases == ["candidate", "champion"]
    tags = MlflowClient(tracking_uri=tracking).get_model_version("tiny", registered.version).tags
    assert (tags["sam2.shortened"], tags["sam2.shortened_stages"]) == ("true", f"s{told}")
    assert "sam2.partial" not in tags


def _copy_model(checkpoint: Artifact, directory: Path) -> None:
    for path in checkpoint.paths("model/"):
        (directory / "model").mkdir(parents=True, exist_ok=True)
        (directory / "model" / path.name).write_bytes(path.read_bytes())
