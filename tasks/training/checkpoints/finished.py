"""What a finished stage leaves, made from its last checkpoint: the model, and the optimiser's state for the next stage.

The weights are copied piece by piece into one file; the optimiser's files, which can be larger than memory, are
linked as the ranks wrote them, with an index beside them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from infra.errors import ArtifactCorrupted
from infra.storage.local import atomic_file, explained_write_errors
from model import HybridLM, ModelConfig
from model.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE, publish
from tasks.training.checkpoints.description import Slice, TensorRecord
from tasks.training.checkpoints.fragments import is_weight, weight_key
from tasks.training.checkpoints.reading import Checkpoint, SlicedTensors, TensorSource
from tasks.training.checkpoints.safetensors_stream import write_safetensors

OPTIMIZER_INDEX_FILE = "index.json"
_PIECE_VALUES = 16 << 20


class _OptimizerIndex(BaseModel):
    """Where the moments are: tensor -> slices in the files beside the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer_step: int
    tensors: dict[str, TensorRecord]


def write_model(source: TensorSource, config: ModelConfig, directory: Path) -> None:
    """Write the weights as a model's directory (`model.load` opens it); each file whole or not at all."""
    with torch.device("meta"):
        model = HybridLM(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}  # a tied head once
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{WEIGHTS_FILE}.{os.getpid()}"
    with explained_write_errors(directory):
        write_safetensors(temporary, shapes, _pieces(source, shapes), metadata={"format": "pt"})
        publish(temporary, directory / WEIGHTS_FILE)
    with atomic_file(directory / CONFIG_FILE) as stream:
        stream.write(config.model_dump_json(indent=2).encode() + b"\n")


def _pieces(source: TensorSource, shapes: dict[str, tuple[int, ...]]) -> Iterator[Tensor]:
    for name, shape in shapes.items():
        length = torch.Size(shape).numel()
        for start in range(0, length, _PIECE_VALUES):
            yield source.read(weight_key(name), start, min(start + _PIECE_VALUES, length))


def write_optimizer(checkpoint: Checkpoint, optimizer_step: int, directory: Path) -> None:
    """Leave the moments in a directory of their own, under names that do not depend on when they were written."""
    moments = {name: record for name, record in checkpoint.tensors.items() if not is_weight(name)}
    files = sorted({piece.file for record in moments.values() for piece in record.slices})
    names = {file: f"optimizer-{number:05d}-of-{len(files):05d}.safetensors" for number, file in enumerate(files)}
    shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed
    directory.mkdir(parents=True)
    with explained_write_errors(directory):
        for file, name in names.items():
            _link(checkpoint.directory / file, directory / name)
    tensors = {name: _renamed(record, names) for name, record in moments.items()}
    with atomic_file(directory / OPTIMIZER_INDEX_FILE) as stream:
        stream.write(_OptimizerIndex(optimizer_step=optimizer_step, tensors=tensors).model_dump_json(indent=1).encode())


class OptimizerState(SlicedTensors):
    """A finished stage's moments; optimizer_step: the updates they have seen, earlier stages included."""

    def __init__(self, directory: Path) -> None:
        """Open what `write_optimizer` wrote; raises ArtifactCorrupted when it cannot be read."""
        path = directory / OPTIMIZER_INDEX_FILE
        try:
            index = _OptimizerIndex.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactCorrupted(
                f"optimiser state '{path}' cannot be read ({str(error).splitlines()[0]}).",
                "train the previous stage again.",
            ) from error
        super().__init__(directory, index.tensors)
        self.optimizer_step = index.optimizer_step


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _renamed(record: TensorRecord, names: dict[str, str]) -> TensorRecord:
    slices = (Slice(file=names[piece.file], start=piece.start, stop=piece.stop) for piece in record.slices)
    return TensorRecord(shape=record.shape, slices=tuple(slices))
