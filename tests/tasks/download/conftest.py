"""A store in a temporary directory, and a download build in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from tasks.download import STAGE, DownloadConfig, resolve_sources


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def download(store: ArtifactStore, tmp_path: Path) -> Callable[..., Artifact]:
    def build(sources: list[dict[str, Any]], **settings: Any) -> Artifact:
        config = DownloadConfig(sources=sources, **{"workers": 1, **settings})
        return build_stage(STAGE, resolve_sources(config, tmp_path / "downloads"), {}, store).artifact

    return build
