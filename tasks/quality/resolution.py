"""Pin the classifiers a quality config names, so that the fingerprint changes with their files."""

from __future__ import annotations

from pathlib import Path

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from tasks.quality.config import ClassifierConfig, QualityConfig


def resolve_classifiers(config: QualityConfig) -> QualityConfig:
    """The same config with the checksum of every classifier's file filled in.

    Raises ConfigurationError when a file cannot be read or does not have the checksum given for it.
    """
    changes: dict[str, object] = {}
    if config.quality_classifier is not None:
        changes["quality_classifier"] = _pinned(config.quality_classifier, "quality_classifier")
    if config.spam.classifier is not None:
        pinned = _pinned(config.spam.classifier, "spam.classifier")
        changes["spam"] = config.spam.model_copy(update={"classifier": pinned})
    return config.model_copy(update=changes) if changes else config


def _pinned(classifier: ClassifierConfig, field: str) -> ClassifierConfig:
    try:
        checksum = checksum_file(Path(classifier.path))
    except OSError as error:
        raise ConfigurationError(
            f"quality.{field}.path '{classifier.path}' cannot be read: {error.strerror or error}.",
            "correct the path; `sam2 train-classifier` makes such a file.",
        ) from error
    if classifier.checksum not in (None, checksum):
        raise ConfigurationError(
            f"quality.{field}: '{classifier.path}' does not match checksum {classifier.checksum}.",
            "restore the file, or remove `checksum` to accept the new one.",
        )
    return classifier.model_copy(update={"checksum": checksum})
