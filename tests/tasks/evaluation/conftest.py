from __future__ import annotations

from pathlib import Path

import pytest
from small_artifacts import small_artifacts

from infra.artifacts import Artifact, ArtifactStore
from tests.tasks.evaluation.trained_model import data_directory, trained

__all__ = ["data_directory", "trained"]


@pytest.fixture
def artifacts(tmp_path: Path) -> tuple[ArtifactStore, dict[str, Artifact]]:
    """A store with a tiny corpus and a tiny model."""
    return small_artifacts(tmp_path)
