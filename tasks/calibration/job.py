"""What is handed to the process that measures, and the rows it trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra.storage.local import atomic_file
from tasks.tokenization.token_shards import token_dtype, write_token_shard
from tasks.training import TrainingStageConfig
from tasks.training.job import TrainingJob

_DOCUMENTS = 4


class CalibrationJob(BaseModel):
    """Configurations of one variant to measure, the least tokens first.

    what: `speed` for as long as `seconds`, or the peak `memory` of each.
    """

    model_config = ConfigDict(frozen=True)

    what: Literal["speed", "memory"]
    points: tuple[TrainingStageConfig, ...]
    seconds: float
    shard: Path
    directory: Path

    def write(self, path: Path) -> None:
        """As one JSON file."""
        with atomic_file(path) as stream:
            stream.write(self.model_dump_json().encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        return cls.model_validate_json(path.read_bytes())

    def training_job(self, number: int) -> TrainingJob:
        """One point as the trainer gets it."""
        directory = self.directory / f"point-{number}"
        return TrainingJob(
            config=self.points[number],
            train_shards=[self.shard],
            validation_shards=[],
            source_names=["random"],
            previous=None,
            output=directory,
            checkpoints=directory / "checkpoints",
        )


def write_random_documents(prefix: Path, points: tuple[TrainingStageConfig, ...]) -> None:
    """A token shard of long random documents: nearly every row lies inside one, as utilisation is counted."""
    vocabulary = points[0].model.vocabulary_size
    length = max(point.batch_tokens for point in points)
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, vocabulary, size=length).tolist() for _ in range(_DOCUMENTS)]
    write_token_shard(prefix, documents, [0] * _DOCUMENTS, [length] * _DOCUMENTS, token_dtype(vocabulary))
