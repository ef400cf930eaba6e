"""Units of work: what a worker is given, does and hands back, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

import infra.errors
from infra.errors import PipelineError
from infra.storage.local import atomic_file

UnitT = TypeVar("UnitT")


@dataclass(frozen=True)
class UnitOutput:
    """What a worker hands back: the files it wrote and its figures (plain JSON)."""

    files: tuple[Path, ...]
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A PipelineError on its way between processes (its two-part message does not unpickle by itself)."""

    error_type: type[PipelineError]
    problem: str
    fix: str

    def error(self) -> PipelineError:
        """The error to raise where the unit was asked for."""
        return self.error_type(self.problem, self.fix)


def guarded(work: Callable[[UnitT], UnitOutput], unit: UnitT) -> UnitOutput | Failure:
    """Do the work; a PipelineError becomes a value."""
    try:
        return work(unit)
    except PipelineError as error:
        return Failure(type(error), error.problem, error.fix)


def save_outcome(path: Path, outcome: UnitOutput | Failure) -> None:
    """Leave the outcome in a JSON file for the process that waits for it."""
    if isinstance(outcome, Failure):
        content: dict[str, Any] = {
            "error": outcome.error_type.__name__,
            "problem": outcome.problem,
            "fix": outcome.fix,
        }
    else:
        content = {"files": [str(file) for file in outcome.files], "statistics": outcome.statistics}
    with atomic_file(path) as stream:
        stream.write(orjson.dumps(content))


def load_outcome(path: Path) -> UnitOutput | Failure:
    """Read what `save_outcome` left."""
    content = orjson.loads(path.read_bytes())
    if "error" in content:
        error_type = getattr(infra.errors, content["error"], PipelineError)
        return Failure(error_type, content["problem"], content["fix"])
    return UnitOutput(tuple(Path(file) for file in content["files"]), content["statistics"])
