"""Profiles load, fit together, and mistakes are refused with the field and the fix."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from flows.configuration import PROFILE_DIRECTORY, PipelineOverrides, load_profile, read_yaml
from flows.pipeline_graph import build_graph, plan
from infra.artifacts import ArtifactStore
from infra.errors import ConfigurationError

PROFILES = sorted(path.stem for path in PROFILE_DIRECTORY.glob("*.yaml"))


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_and_lays_out_a_graph(name: str, tmp_path: Path) -> None:
    config = load_profile(name)
    graph = build_graph(config)
    names = [node.name for node in graph]
    assert names[:4] == ["download", "quality", "deduplication", "tokenization"]
    assert names[-3:] == ["evaluation", "quantization", "registration"]
    for position, node in enumerate(graph):
        assert set(node.inputs.values()) <= set(names[:position]), node.name
    states = plan(graph, ArtifactStore.open(str(tmp_path), tmp_path / "cache"))
    assert [state.finished for state in states] == [False] * len(graph)
    assert len({state.reference for state in states}) == len(graph)


def test_a_change_reaches_the_stages_after_it_only(tmp_path: Path) -> None:
    def references(**changes: object) -> dict[str, str]:
        graph = build_graph(load_profile("miniature", changes))
        store = ArtifactStore.open(str(tmp_path), tmp_path / "cache")
        return {state.name: state.reference for state in plan(graph, store)}

    base = references()
    changed = references(deduplication={"threshold": 0.7})
    same = {name for name in base if base[name] == changed[name]}
    assert same == {"download", "quality"}
    assert references(training={"checkpoint_every_seconds": 5.0}) == base, "run arguments change nothing"
    assert references(quality={"workers": 7}) == base


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quality": {"minimum_charcters": 3}}, "did you mean 'minimum_characters'"),
        ({"model": {"feed_forward_width": 300}}, "not a multiple of 256"),
        ({"model": {"attention_heads": 5}}, "attention_heads"),
        ({"model": {"vocabulary_size": 512}}, "exceeds model.vocabulary_size"),
        ({"training": {"optimizer": "muon", "zero_stage": 2}}, "set zero_stage to 0"),
        ({"budget": {"ceiling_usd": -1}}, "budget.ceiling_usd"),
    ],
)
def test_mistakes_are_refused_with_the_field_and_the_fix(changes: dict, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_profile("miniature", changes)
    assert expected in str(caught.value)
    assert "profile miniature.yaml with overrides" in str(caught.value)


def test_an_unknown_kind_of_source_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'gopher://y' is of an unknown kind.*pypi://"):
        load_profile("miniature", {"download": {"sources": [{"name": "x", "uri": "gopher://y"}]}})


def test_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="smoke"):
        load_profile("enormous")


def test_unreadable_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml"):
        read_yaml(path)


def test_the_form_is_typed_and_documented() -> None:
    schema = PipelineOverrides.model_json_schema()
    undocumented = [
        f"{owner}.{name}"
        for owner, model in {"": schema, **schema["$defs"]}.items()
        for name, field in model.get("properties", {}).items()
        if owner.endswith("Overrides") and not field.get("description")
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits_the_schema_that_prefect_checks_parameters_against(name: str) -> None:
    content = load_profile(name).model_dump(mode="json", exclude_none=True)
    jsonschema.validate(content, PipelineOverrides.model_json_schema())
