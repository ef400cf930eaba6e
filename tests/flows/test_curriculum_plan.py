"""Stages inserted, repeated or continued in a curriculum leave the artifacts of the stages before them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.configuration import load_profile
from flows.pipeline_graph import build_graph, plan
from infra.artifacts import ArtifactStore
from infra.errors import ConfigurationError


def stages(*changes: dict[str, Any]) -> dict[str, Any]:
    """The miniature profile's curriculum: its first stage with each of the changes in turn."""
    first = load_profile("miniature").curriculum[0].model_dump(exclude_unset=True)
    return {"curriculum": [first | change for change in changes]}


def references(tmp_path: Path, *changes: dict[str, Any]) -> list[str]:
    """References of the training stages' artifacts."""
    graph = build_graph(load_profile("miniature", stages(*changes)))
    states = plan(graph, ArtifactStore.open(str(tmp_path), tmp_path / "cache"))
    return [state.reference for state in states if state.name.startswith("training-")]


A, B, MORE = {"name": "a"}, {"name": "b"}, {"name": "more", "continues": "a"}


def test_stages_added_behind_leave_those_before_them_alone(tmp_path: Path) -> None:
    one = references(tmp_path, A)
    assert references(tmp_path, A | {"repeat": 3})[:1] == one
    assert references(tmp_path, A | {"repeat": 3})[:2] == references(tmp_path, A | {"repeat": 2})
    two = references(tmp_path, A, B)
    assert two[:1] == one
    assert references(tmp_path, A, B, MORE)[:2] == two
    inserted = references(tmp_path, A, MORE, B)
    assert inserted[0] == one[0]
    assert inserted[2] != two[1], "what comes after an inserted stage starts from another checkpoint"


def test_every_repetition_is_a_stage_of_its_own(tmp_path: Path) -> None:
    config = load_profile("miniature", stages(A | {"repeat": 2}, B))
    names = [node.name for node in build_graph(config)]
    assert [name for name in names if name.startswith("training-")] == [
        "training-1-a",
        "training-2-a-2",
        "training-3-b",
    ]
    first, second, other = config.training_stages()
    assert (second.data_order, second.first_row) == ("a", first.steps * first.rows_per_step)
    assert (other.data_order, other.first_row) == (None, 0)


def test_a_data_order_that_cannot_go_on_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigurationError, match=r"continues 'a' but its packing is best_fit, not stream; make them"):
        load_profile("miniature", stages(A, MORE | {"packing": "best_fit"}))
