"""What the stage hands to the trainer's processes: one JSON file; and what comes back: exit codes and events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from infra.processes import EVENT_PREFIX
from infra.storage.local import atomic_file
from tasks.tokenization.token_shards import TokenDataset, TokenShard
from tasks.training.config import TrainingStageConfig

#: Exit codes of the trainer: stopped by SIGTERM with a checkpoint; by an error that an event names; out of memory.
INTERRUPTED_EXIT_CODE = 75
FAILED_EXIT_CODE = 76
OUT_OF_MEMORY_EXIT_CODE = 77

#: In the stage's scratch, on this machine and in a bucket.
CHECKPOINT_DIRECTORY = "checkpoints"
MODEL_DIRECTORY = "model"
OPTIMIZER_DIRECTORY = "optimizer"
HISTORY_FILE = "history.jsonl"
TIMING_FILE = "timing.jsonl"
INCIDENT_FILE = "incidents.jsonl"
#: Where the rows come from: documents, tokens, epochs of each group.
DATA_FILE = "data.jsonl"
ROLL_BACK_FILE = "roll_backs.jsonl"


class TrainingJob(BaseModel):
    """One curriculum stage to train. Shards are `.bin`/`.idx` paths without suffix."""

    model_config = ConfigDict(frozen=True)

    config: TrainingStageConfig
    train_shards: list[Path]
    validation_shards: list[Path]
    source_names: list[str]
    previous: Path | None
    """Directory of the previous stage's checkpoint artifact."""
    output: Path
    """Where the finished artifact's files go."""
    checkpoints: Path
    """Where the run keeps what it needs to resume."""
    checkpoints_remote: str | None = None
    """Where it keeps a copy that another machine can resume from (s3://bucket/prefix)."""

    @property
    def heartbeats(self) -> Path:
        """Where the ranks of this machine say what they are doing."""
        return self.checkpoints.parent / "heartbeats"

    def with_micro_batch(self, rows: int) -> Self:
        """The same updates in micro-batches of so many rows."""
        return self.model_copy(update={"config": self.config.model_copy(update={"micro_batch": rows})})

    def write(self, path: Path) -> None:
        with atomic_file(path) as stream:
            stream.write(self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_bytes())

    def training_documents(self) -> TokenDataset:
        return TokenDataset([TokenShard(prefix) for prefix in self.train_shards], self.source_names)

    def validation_documents(self) -> TokenDataset | None:
        """The held-out documents; None when the tokens artifact has none."""
        dataset = TokenDataset([TokenShard(prefix) for prefix in self.validation_shards], self.source_names)
        return dataset if dataset.token_count else None


def emit(event: str, fields: Mapping[str, Any]) -> None:
    """Tell the stage something. Nobody listening is no error: the stage may have been killed."""
    with contextlib.suppress(BrokenPipeError):
        print(EVENT_PREFIX + json.dumps({"event": event, **fields}), flush=True)  # noqa: T201
