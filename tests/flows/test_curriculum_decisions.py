"""The graph that decisions about money lead to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.configuration import load_profile
from flows.curriculum_decisions import done_steps, graph_after
from flows.pipeline_graph import PlannedStage, build_graph, planned_references
from infra.artifacts import ArtifactStore
from tasks.guard import Choice, Decision
from tasks.registration import RegistrationConfig
from tasks.training import TrainingStageConfig

#: Updates of the miniature profile's stages.
PLANNED = {"short": 20, "medium": 10, "long": 10}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


def decision(choice: Choice, share: float = 1.0, **done: int) -> Decision:
    return Decision(
        choice=choice, decided_at=datetime.now(UTC), decided_by="a person", ceiling_usd=1.0, share=share,
        done_steps=done,
    )  # fmt: skip


def steps(graph: list[PlannedStage]) -> dict[str, int]:
    return {node.config.name: node.config.steps for node in graph if isinstance(node.config, TrainingStageConfig)}


def test_without_decisions_and_with_approvals_it_is_the_profiles(store: ArtifactStore) -> None:
    config = load_profile("miniature")
    plain = build_graph(config)
    for decided in ([], [decision(Choice.APPROVE, short=12)]):
        assert planned_references(graph_after(config, store, decided), {}) == planned_references(plain, {})
    assert steps(plain) == PLANNED


def test_shrinking_cuts_what_remains_once_for_each_decision(store: ArtifactStore) -> None:
    config = load_profile("miniature", {"curriculum": long_curriculum()})
    once = graph_after(config, store, [decision(Choice.SHRINK, 0.5, short=100)])
    assert steps(once) == {"short": 150, "long": 50}
    twice = graph_after(
        config, store, [decision(Choice.SHRINK, 0.5, short=100), decision(Choice.SHRINK, 0.5, short=110)]
    )
    assert steps(twice) == {"short": 130, "long": 25}
    assert [node.name for node in twice] == [node.name for node in build_graph(config)]


def test_stopping_ends_at_a_partial_model(store: ArtifactStore) -> None:
    config = load_profile("miniature")
    graph = graph_after(config, store, [decision(Choice.STOP, short=20, medium=3)])
    assert [node.name for node in graph[-3:]] == ["training-1-short", "training-2-medium", "registration"]
    assert steps(graph) == {"short": 20, "medium": 3}
    settings = graph[-1].config
    assert isinstance(settings, RegistrationConfig)
    assert settings.partial is not None
    assert settings.partial.reason == "a person stopped the run for its cost"


def test_nothing_is_done_where_nothing_was_built(store: ArtifactStore) -> None:
    assert done_steps(store, build_graph(load_profile("miniature"))) == dict.fromkeys(PLANNED, 0)


def long_curriculum() -> list[dict[str, object]]:
    stage = {"batch_tokens": 1024, "learning_rate": 1e-3}
    return [
        {"name": "short", "context_tokens": 64, "tokens": 1024 * 200, **stage},
        {"name": "long", "context_tokens": 128, "tokens": 1024 * 100, **stage},
    ]
