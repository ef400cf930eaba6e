from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.artifacts import Artifact, ArtifactStore

# The tiny corpus and model are those of the evaluation's tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))


@pytest.fixture
def artifacts(tmp_path: Path) -> tuple[ArtifactStore, dict[str, Artifact]]:
    """A store with a tiny corpus, a tiny model and its evaluation."""
    from small_artifacts import NoConfig, small_artifacts

    from infra.artifacts import Stage, StageResult, build_stage

    store, inputs = small_artifacts(tmp_path)
    stage = Stage("evaluation", "evaluation", 1, NoConfig, lambda context: StageResult({}, {}, {"gates_passed": True}))
    evaluation = build_stage(stage, NoConfig(), {"checkpoint": inputs["checkpoint"]}, store).artifact
    return store, inputs | {"evaluation": evaluation}
