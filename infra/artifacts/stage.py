"""What a stage is: a plain function from input artifacts and a config to files in a directory.

A stage knows nothing of Prefect, MLflow or the ledger; it can be called from a test or a
debugger. What it tells the outside goes through its context.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from infra.artifacts.shards import ShardMarkers
    from infra.artifacts.store import Artifact

_UNLESS_DEFAULT = "unless default"


class StageConfig(BaseModel):
    """A stage's own configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """The literals that change the result.

        Fields declared with `run_argument` are left out, those with `added_argument` while they have their default.
        """
        return _identity_of(self)


def _identity_of(model: BaseModel) -> dict[str, Any]:
    identity: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value, extra = getattr(model, name), info.json_schema_extra
        counts = extra.get("identity", True) if isinstance(extra, dict) else True
        if counts is False or (counts == _UNLESS_DEFAULT and value == info.default):
            continue
        identity[name] = _plain(value)
    return identity


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _identity_of(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def added_argument(default: Any, description: str, **constraints: Any) -> Any:
    """A config field that changes the result and came after artifacts had been made without it.

    At its default it is no part of the identity, so that what was made before keeps its fingerprint.
    """
    return Field(default, description=description, json_schema_extra={"identity": _UNLESS_DEFAULT}, **constraints)


def run_argument(default: Any, description: str, **constraints: Any) -> Any:
    """A config field that changes how a stage runs (workers, paths), never what it produces."""
    return Field(default, description=description, json_schema_extra={"identity": False}, **constraints)


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back besides its files.

    `metrics` are flat figures with MLflow names (`eval/bits_per_byte`); `tables` are rows for
    people (each becomes a table in the Prefect UI and the report); `statistics` is free JSON.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)


ConfigT = TypeVar("ConfigT", bound=StageConfig)

#: `report(fraction, message, metrics)`: fraction in 0..1; metrics carry an optional `step`.
ProgressReporter = Callable[[float, str, Mapping[str, float] | None], None]


def silent_progress(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
    """A reporter for callers that do not watch."""


@dataclass(frozen=True)
class StageContext(Generic[ConfigT]):
    """What a stage is given.

    directory: where its files go; survives a kill, so finished shards are found again.
    inputs: finished, verified artifacts by name.
    shards: completion markers (`shards.is_done(name)`, `shards.finish(name, files, statistics)`).
    report: progress and live metrics; also the place where cancellation and a lost lease surface.
    remote: URI of the artifact's place where storage is remote; what a stage leaves in SCRATCH_DIRECTORY there,
    another machine finds, until the artifact is finished.
    """

    config: ConfigT
    inputs: Mapping[str, Artifact]
    directory: Path
    shards: ShardMarkers
    report: ProgressReporter = silent_progress
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("sam2.stage"))
    remote: str | None = None


@dataclass(frozen=True)
class Stage(Generic[ConfigT]):
    """A stage's identity and code. Raise `version` when the code changes what it produces."""

    name: str
    kind: str
    version: int
    config_type: type[ConfigT]
    run: Callable[[StageContext[ConfigT]], StageResult]
