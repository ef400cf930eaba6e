"""The pipeline's graph when its training is made shorter, or is stopped."""

from __future__ import annotations

import pytest

from flows.configuration import PipelineConfig, load_profile
from flows.pipeline_graph import PlannedStage, build_graph, build_partial_graph
from infra.artifacts import plan_fingerprint
from infra.errors import ConfigurationError
from tasks.registration import RegistrationConfig
from tasks.training import remaining_steps, shorten_curriculum, stop_at


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    return load_profile("miniature", {"registration": {"serve_format": "int8"}})


def fingerprints(graph: list[PlannedStage]) -> dict[str, str]:
    references: dict[str, str] = {}
    for node in graph:
        inputs = {name: references[source] for name, source in node.inputs.items()}
        references[node.name] = f"{node.stage.kind}/{plan_fingerprint(node.stage, node.config, inputs)}"
    return references


def test_a_shortened_graph_has_the_same_nodes_and_other_results_from_the_first_cut_on(config: PipelineConfig) -> None:
    stages = config.training_stages()
    first, *later = stages
    done = {first.name: first.steps}
    shortened = build_graph(config, shorten_curriculum(stages, done, 0.5, minimum_steps=1))
    whole, short = fingerprints(build_graph(config)), fingerprints(shortened)
    assert list(whole) == list(short)
    changed = [name for name in whole if whole[name] != short[name]]
    kept = ["download", "quality", "deduplication", "tokenization", f"training-1-{first.name}"]
    assert [name for name in whole if name not in changed] == kept
    assert later, "the profile has a stage to shorten"
    assert fingerprints(build_graph(config, stages)) == whole


def test_a_stopped_run_registers_what_there_is(config: PipelineConfig) -> None:
    stages = config.training_stages()
    done = {stages[0].name: stages[0].steps // 2}
    graph = build_partial_graph(config, stop_at(stages, done), "the budget of 5 USD is spent")
    names = [node.name for node in graph]
    assert names == ["download", "quality", "deduplication", "tokenization", f"training-1-{stages[0].name}",
                     "registration"]  # fmt: skip
    registration = graph[-1]
    assert isinstance(registration.config, RegistrationConfig) and registration.config.partial is not None
    assert registration.inputs == {"checkpoint": f"training-1-{stages[0].name}", "tokens": "tokenization"}
    assert registration.config.serve_format == "fp32", "no other format was made"
    assert registration.config.partial.tokens == done[stages[0].name] * stages[0].batch_tokens
    assert len(registration.config.partial.stages) == len(stages)
    assert registration.afterwards is not None


def test_a_run_stopped_after_its_training_registers_a_whole_model_unevaluated(config: PipelineConfig) -> None:
    stages = config.training_stages()
    done = {stage.name: stage.steps for stage in stages}
    assert not any(remaining_steps(stages, done).values())
    registration = build_partial_graph(config, stop_at(stages, done), "spent")[-1].config
    assert isinstance(registration, RegistrationConfig) and registration.partial is None


def test_a_run_stopped_before_its_first_update_has_nothing_to_register(config: PipelineConfig) -> None:
    with pytest.raises(ConfigurationError, match="before its first update"):
        stop_at(config.training_stages(), {})
