"""The directory that holds an export: graphs, their common weights, and a description of all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.config import ModelConfig
from model.errors import CheckpointError
from model.exports.onnx.parts import StateSpec

METADATA_FILE = "onnx.json"
WEIGHTS_FILE = "model.onnx.weights"
TOKENIZER_FILE = "tokenizer.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GraphDescription(_Value):
    """One graph's file and the names of what goes in and comes out, in order."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OnnxDescription(_Value):
    """What an export consists of; `onnx.json`."""

    version: Literal[1] = Field(default=1, description="Layout of this description.")
    weights_type: Literal["float32", "int8"] = Field(description="What the projections' matrices are stored as.")
    opset: int
    chunk_tokens: int = Field(gt=0, description="Tokens the chunk graph takes; a shorter chunk is padded at its end.")
    states: tuple[StateSpec, ...] = Field(description="Tensors carried from call to call; all zeros or empty at first.")
    step: GraphDescription
    chunk: GraphDescription
    config: ModelConfig
    sha256: dict[str, str] = Field(description="Checksum of every other file of the directory.")


def describe(directory: str | Path) -> OnnxDescription:
    """The description of an export, after comparing every file with its checksum.

    Raises CheckpointError when it is absent, of another version, or a file is missing or changed.
    """
    path = Path(directory) / METADATA_FILE
    try:
        description = OnnxDescription.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {path.parent} holds no ONNX export; write one with save_onnx") from (
            error
        )
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): export the model again") from error
    for name, expected in description.sha256.items():
        if checksum(path.parent / name) != expected:
            raise CheckpointError(f"{path.parent / name} is not the file that was exported: export the model again")
    return description


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): export the model again") from error
