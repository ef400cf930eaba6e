"""The finetuning profiles, the base they start from, and the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.finetune_configuration import (
    PROFILE_DIRECTORY,
    build_finetune_graph,
    find_base,
    load_finetune_profile,
    overrides_of,
    resolve,
)
from flows.pipeline_graph import plan
from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from infra.errors import ConfigurationError
from tasks.registration import PartialTraining, RegistrationConfig


class Numbered(StageConfig):
    """Makes artifacts of one kind differ."""

    number: int = 0


def _write(context: StageContext[Any]) -> StageResult:
    (context.directory / "tokenizer.json").write_text(str(context.config))
    return StageResult()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


def make_bundle(store: ArtifactStore, name: str, number: int = 0, partial: PartialTraining | None = None) -> Artifact:
    tokens = build_stage(Stage("tokens", "tokens", 1, Numbered, _write), Numbered(number=number), {}, store).artifact
    stage = Stage("registration", "registration", 1, RegistrationConfig, _write)
    return build_stage(stage, RegistrationConfig(model_name=name, partial=partial), {"tokens": tokens}, store).artifact


@pytest.mark.parametrize("path", sorted(PROFILE_DIRECTORY.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_valid(path: Path) -> None:
    config = load_finetune_profile(path.stem)
    assert config.profile == path.stem
    assert config.description


def test_mistakes_are_told_by_field() -> None:
    with pytest.raises(ConfigurationError, match=r"no finetuning profile 'chatt'.*chat"):
        load_finetune_profile("chatt")
    with pytest.raises(ConfigurationError, match=r"unknown key 'finetuning\.lora\.rnak'.*'rank'"):
        load_finetune_profile("chat", {"finetuning": {"lora": {"rnak": 8}}})
    with pytest.raises(ConfigurationError, match=r"put chat\+ before the uri"):
        load_finetune_profile("chat", {"conversations": {"sources": [{"name": "x", "uri": "file:///x.jsonl"}]}})


def test_the_base_is_found_by_name_fingerprint_or_age(store: ArtifactStore) -> None:
    one, other = make_bundle(store, "one", 1), make_bundle(store, "other", 2)
    assert find_base(store, "one")["base"].reference == one.reference
    assert find_base(store, "one")["tokens"].reference == one.manifest.inputs["tokens"]
    assert find_base(store, other.manifest.fingerprint[:8])["base"].reference == other.reference
    assert find_base(store, other.reference)["base"].reference == other.reference
    assert find_base(store, "latest")["base"].reference in (one.reference, other.reference)
    with pytest.raises(ConfigurationError, match=r"no base model 'third'.*choose one of: one, other"):
        find_base(store, "third")


def test_a_model_stopped_early_is_only_taken_by_its_fingerprint(store: ArtifactStore) -> None:
    whole = make_bundle(store, "one", 1)
    stage = {"name": "short", "steps": 1, "planned_steps": 2, "tokens": 16, "planned_tokens": 32}
    partial = PartialTraining.model_validate({"stages": [stage], "reason": "too dear"})
    stopped = make_bundle(store, "one", 2, partial)
    assert find_base(store, "latest")["base"].reference == find_base(store, "one")["base"].reference == whole.reference
    assert find_base(store, stopped.manifest.fingerprint[:8])["base"].reference == stopped.reference


def test_without_a_bundle_or_its_tokens_it_says_what_to_run(store: ArtifactStore) -> None:
    with pytest.raises(ConfigurationError, match="sam2 run"):
        find_base(store, "latest")
    bundle = make_bundle(store, "one")
    store.withdraw_manifest(*bundle.manifest.inputs["tokens"].split("/"))
    with pytest.raises(ConfigurationError, match="the tokens artifact is gone"):
        find_base(store, "one")


def chat_config(tmp_path: Path, answer: str = "Because.", **changes: Any) -> Any:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(f'{{"prompt": "Why?", "response": "{answer}"}}\n')
    sources = {"sources": [{"name": "mine", "uri": f"chat+file://{chats}"}]}
    return load_finetune_profile("chat", {"conversations": sources, **changes})


def test_the_graph_is_planned_from_the_bases_artifacts(store: ArtifactStore, tmp_path: Path) -> None:
    bundle = make_bundle(store, "one")
    present = find_base(store, "one")
    config = resolve(chat_config(tmp_path), bundle, tmp_path)
    assert config.registration.model_name == "one-lora-quac"
    assert config.conversations.sources[0].pinned, "the file's content is part of the fingerprint"
    known = {name: artifact.reference for name, artifact in present.items()}
    states = plan(build_finetune_graph(config), store, known)
    names = ["conversations", "finetuning", "chat-evaluation", "adapter-registration"]
    assert [(state.name, state.finished) for state in states] == [(name, False) for name in names]
    changed = resolve(chat_config(tmp_path, "No."), bundle, tmp_path)
    others = plan(build_finetune_graph(changed), store, known)
    assert not {state.reference for state in states} & {state.reference for state in others}


def test_the_merged_model_is_quantized_and_registered_on_request(tmp_path: Path) -> None:
    merged = {"registration": {"model_name": "one-chat"}, "quantization": {"formats": ["int8"]}}
    names = [node.name for node in build_finetune_graph(chat_config(tmp_path, merged=merged))]
    assert names == [
        "conversations", "finetuning", "chat-evaluation", "quantization", "registration", "adapter-registration",
    ]  # fmt: skip


def test_a_name_of_ones_own_wins(store: ArtifactStore, tmp_path: Path) -> None:
    config = chat_config(tmp_path, registration={"model_name": "mine"})
    assert resolve(config, make_bundle(store, "one"), tmp_path).registration.model_name == "mine"


def test_the_commands_options_are_overrides(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").touch()
    changes = overrides_of([tmp_path / "chats.jsonl", tmp_path], "one", "mine")
    config = load_finetune_profile("chat", changes)
    assert [source.uri for source in config.conversations.sources] == [
        f"chat+file://{tmp_path}/chats.jsonl",
        f"chat+file://{tmp_path}",
    ]
    assert (config.base, config.finetuning.name) == ("one", "mine")
    assert overrides_of([], None, None) == {}
    with pytest.raises(ConfigurationError, match="no file or directory"):
        overrides_of([tmp_path / "none"], None, None)
