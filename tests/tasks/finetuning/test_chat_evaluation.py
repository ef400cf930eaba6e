"""Before and after, forgetting, replies and gates; and what the registry makes of them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.pyfunc import load_model

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.errors import ConfigurationError
from model import load
from tasks.evaluation.gates import Gate
from tasks.finetuning import EVALUATION, REGISTRATION, AdapterRegistrationConfig, ChatEvaluationConfig
from tasks.finetuning.chat_template import choose_template
from tasks.finetuning.encoding import ConversationEncoder, chat_tokenizer
from tasks.finetuning.registration import save_adapter_model
from tasks.registration.registry import ensure_registered

PASSING = (Gate(metric="eval/answers/perplexity", condition="below", threshold="eval/answers/perplexity_before"),)


def evaluate(
    store: ArtifactStore, inputs: dict[str, Artifact], gates: tuple[Gate, ...] | None = None, **changes: object
) -> Artifact:
    fields = {"context_tokens": 96, "window_overlap_tokens": 16, "replies": 2, "reply_tokens": 16, **changes}
    config = ChatEvaluationConfig.model_validate(fields | ({"gates": gates} if gates else {}))
    return build_stage(EVALUATION, config, inputs, store).artifact


@pytest.fixture(scope="session")
def measured(base: Artifact, tuned: Artifact, conversations: Artifact, tokens: Artifact) -> dict[str, Artifact]:
    return {"base": base, "tuned": tuned, "conversations": conversations, "tokens": tokens}


@pytest.fixture(scope="session")
def evaluation(session_store: ArtifactStore, measured: dict[str, Artifact]) -> Artifact:
    return evaluate(session_store, measured, PASSING)


def test_answers_are_better_and_the_figures_are_those_of_the_models(
    evaluation: Artifact, tuned: Artifact, base: Artifact, conversations: Artifact
) -> None:
    metrics = evaluation.manifest.metrics
    assert metrics["eval/answers/perplexity"] < metrics["eval/answers/perplexity_before"] / 2
    tokenizer = chat_tokenizer(base.path("tokenizer.json"))
    template = choose_template(base.directory / "model", tokenizer, "<|endoftext|>")
    lines = conversations.path("held_out.jsonl").read_text().splitlines()
    model, nats, count = load(tuned.directory / "model"), 0.0, 0
    for one in ConversationEncoder(tokenizer, template, 96).encode([json.loads(line)["messages"] for line in lines]):
        tokens, answers = torch.tensor(one.tokens), torch.tensor(one.answers[1:])
        with torch.no_grad():
            loss = model.loss(tokens[None, :-1], torch.where(answers == 1, tokens[1:], -100)[None])
        nats, count = nats + float(loss) * int(answers.sum()), count + int(answers.sum())
    assert metrics["eval/answers/perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    ratio = metrics["eval/forgetting/perplexity"] / metrics["eval/forgetting/perplexity_before"]
    assert metrics["eval/forgetting/perplexity_ratio"] == ratio
    assert ratio != 1
    replies = evaluation.manifest.tables["replies"]
    assert [set(row) for row in replies] == [{"question", "expected", "before", "after"}] * 2
    assert all(row["after"] != row["before"] for row in replies)
    assert evaluation.manifest.statistics["gates_passed"] is True


def test_forgetting_beyond_the_limit_fails_the_gate(
    session_store: ArtifactStore, measured: dict[str, Artifact]
) -> None:
    gate = Gate(metric="eval/forgetting/perplexity_ratio", condition="below", threshold=0.5)
    artifact = evaluate(session_store, measured, (*PASSING, gate), replies=0)
    assert artifact.manifest.statistics["gates_passed"] is False
    assert [row["verdict"] for row in artifact.manifest.tables["gates"]] == ["passed", "failed"]
    assert "replies" not in artifact.manifest.tables


def test_nothing_tuned_changes_nothing(
    session_store: ArtifactStore, measured: dict[str, Artifact], tuned: Artifact, base: Artifact, tmp_path: Path
) -> None:
    """The base against itself: the two sides are measured alike."""
    directory = tmp_path / "same"
    shutil.copytree(base.directory / "model", directory / "model")
    same = Artifact(tuned.manifest.model_copy(update={"fingerprint": "0" * 32}), directory, str(directory))
    metrics = evaluate(session_store, measured | {"tuned": same}, replies=0).manifest.metrics
    assert metrics["eval/answers/perplexity_ratio"] == 1
    assert metrics["eval/forgetting/perplexity_ratio"] == 1


def register(store: ArtifactStore, measured: dict[str, Artifact], evaluation: Artifact) -> Artifact:
    config = AdapterRegistrationConfig(model_name="tiny-lora-colours")
    inputs = {"base": measured["base"], "tuned": measured["tuned"], "evaluation": evaluation}
    return build_stage(REGISTRATION, config, inputs, store).artifact


def test_adapters_are_registered_by_themselves_and_answer(
    session_store: ArtifactStore, measured: dict[str, Artifact], evaluation: Artifact, tmp_path: Path
) -> None:
    bundle = register(session_store, measured, evaluation)
    assert not any("model/" in entry.path for entry in bundle.manifest.files), "the base is not copied"
    card = bundle.path("model_card.md").read_text()
    assert "# tiny-lora-colours" in card
    assert measured["base"].reference in card
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=tracking)
    client.create_experiment("sam2-registration", artifact_location=str(tmp_path / "files"))
    first = ensure_registered(bundle, tracking, save=save_adapter_model)
    again = ensure_registered(bundle, tracking, save=save_adapter_model)
    assert (first.version, first.is_champion) == (again.version, True) == ("1", True)
    tags = client.get_model_version("tiny-lora-colours", "1").tags
    assert tags["sam2.base"] == measured["base"].reference
    assert tags["sam2.base_model"] == "tiny"
    assert tags["sam2.base_checksum"] == measured["base"].manifest.content_checksum

    version = client.get_model_version("tiny-lora-colours", "1")
    loaded = load_model(str(tmp_path / "files" / version.run_id / "artifacts/model"))
    expected = evaluation.manifest.tables["replies"]
    replies = loaded.predict([row["question"] for row in expected], params={"maximum_new_tokens": 16})
    assert replies == [row["after"] for row in expected]

    limited = evaluate(session_store, measured, (Gate(metric="eval/loss", condition="finite"),), replies=0)
    refused = ensure_registered(register(session_store, measured, limited), tracking, save=save_adapter_model)
    assert (refused.version, refused.aliases) == ("2", ["candidate"])


def test_adapters_on_a_base_that_changed_are_refused(
    session_store: ArtifactStore, measured: dict[str, Artifact], evaluation: Artifact, tmp_path: Path
) -> None:
    bundle = register(session_store, measured, evaluation)
    base = json.loads(bundle.manifest.model_dump_json())["statistics"]["base"]
    copy = tmp_path / "base"
    shutil.copytree(measured["base"].directory, copy)
    weights = bytearray((copy / "model/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model/model.safetensors").write_bytes(weights)
    statistics = bundle.manifest.statistics | {"base": base | {"base_uri": str(copy)}}
    moved = Artifact(bundle.manifest.model_copy(update={"statistics": statistics}), bundle.directory, bundle.uri)
    save_adapter_model(moved, tmp_path / "saved", 512e6)
    with pytest.raises(ValueError, match=r"model/model\.safetensors.*not the one that was registered"):
        load_model(str(tmp_path / "saved"))


def test_a_bundle_needs_a_name(
    session_store: ArtifactStore, measured: dict[str, Artifact], evaluation: Artifact
) -> None:
    inputs = {"base": measured["base"], "tuned": measured["tuned"], "evaluation": evaluation}
    with pytest.raises(ConfigurationError, match="model_name is not set"):
        build_stage(REGISTRATION, AdapterRegistrationConfig(), inputs, session_store)
