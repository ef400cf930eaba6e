"""A classifier is part of what a quality artifact depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tasks.quality import QualityConfig, resolve_classifiers


def config_with(path: Path, checksum: str | None = None) -> QualityConfig:
    classifier = {"path": str(path), "label": "good", "checksum": checksum}
    return QualityConfig(quality_classifier=classifier, spam={"classifier": classifier})  # type: ignore[arg-type]


def test_another_model_file_gives_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    identities = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        identities.append(resolve_classifiers(config_with(path)).identity())
    assert identities[0] != identities[1]
    assert identities[0]["spam"] != identities[1]["spam"]


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with pytest.raises(ConfigurationError, match=r"quality_classifier\.path.*model\.bin.*cannot be read"):
        resolve_classifiers(config_with(path))
    path.write_bytes(b"one")
    with pytest.raises(ConfigurationError, match="does not match"):
        resolve_classifiers(config_with(path, "xxh3_128:0"))


def test_without_classifiers_nothing_changes() -> None:
    assert resolve_classifiers(QualityConfig()) == QualityConfig()
