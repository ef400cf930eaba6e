"""Where calibrations are kept: one JSON file each, whole or not there."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import ValidationError

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from model import ModelConfig
from model.sizing import parameter_count
from tasks.calibration.calibration import Calibration, calibration_digest
from tasks.calibration.hardware import Hardware, this_hardware
from tasks.calibration.setup import Setup
from tasks.training import TrainingStageConfig

#: Below SAM2_HOME.
CALIBRATIONS_DIRECTORY = "calibrations"


class CalibrationStore:
    """A directory of calibrations; a later one of equal model, setup and hardware takes the earlier one's place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of_home(cls, home: Path) -> CalibrationStore:
        """The one of a SAM2_HOME."""
        return cls(home / CALIBRATIONS_DIRECTORY)

    def save(self, calibration: Calibration) -> Path:
        """Keep a calibration; return its file."""
        path = self._path(calibration.digest)
        with atomic_file(path) as stream:
            stream.write(calibration.model_dump_json(indent=1).encode() + b"\n")
        return path

    def find(self, model: ModelConfig, setup: Setup, hardware: Hardware | None = None) -> Calibration | None:
        """Of exactly this model and setup on `hardware` (left out: the machine at hand); None if there is none.

        Raises ConfigurationError for a file that cannot be read.
        """
        path = self._path(calibration_digest(model, setup, hardware or this_hardware()))
        return _read(path) if path.exists() else None

    def find_for(self, stage: TrainingStageConfig, hardware: Hardware | None = None) -> Calibration | None:
        """For a stage: of its model, else transferred from the nearest model measured with its setup; else None."""
        hardware = hardware or this_hardware()
        exact = self.find(stage.model, Setup.of(stage), hardware)
        if exact is not None:
            return exact
        others = [one for one in self.all() if one.setup == Setup.of(stage) and one.hardware == hardware]
        if not others:
            return None
        size = math.log(parameter_count(stage.model).total)
        nearest = min(others, key=lambda one: abs(math.log(parameter_count(one.model).total) - size))
        return nearest.transfer(stage.model)

    def all(self) -> list[Calibration]:
        """Every calibration, the newest first."""
        found = [_read(path) for path in self.directory.glob("*.json")]
        return sorted(found, key=lambda one: one.measured_at, reverse=True)

    def _path(self, digest: str) -> Path:
        return self.directory / f"{digest}.json"


def _read(path: Path) -> Calibration:
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigurationError(
            f"calibration '{path}' cannot be read: {error.error_count()} fields are wrong.",
            "delete it and run `sam2 calibrate` again.",
        ) from error
