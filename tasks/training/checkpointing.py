"""Checkpoints that any number of ranks and any ZeRO stage can continue from: whole tensors, never pickle.

A checkpoint is a directory `step-00000120/` with the weights and AdamW's moments in fp32 and unsharded, the
history so far, and `checkpoint.json`, written last, with the checksum of each file. Directories appear by a
rename of a finished one; a torn one is recognised and the one before it taken.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.errors import ArtifactCorrupted
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file, explained_write_errors, sync_directory

DESCRIPTION_FILE = "checkpoint.json"
WEIGHTS_FILE = "weights.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
HISTORY_FILE = "history.json"
_PREFIX = "step-"
_TEMPORARY_PREFIX = ".tmp-"


@dataclass
class TrainingState:
    """Everything a run continues from.

    step: updates made in this curriculum stage. optimizer_step: updates AdamW's moments have seen, earlier stages
    included. weights: parameter name -> fp32 tensor. moments: `exp_avg.<name>` and `exp_avg_sq.<name>`.
    history, timing: one entry an update (timing is kept apart because it differs from run to run).
    """

    step: int
    optimizer_step: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    history: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)


def save_moments(state: TrainingState, path: Path) -> None:
    """Write AdamW's moments and their step count to one safetensors file."""
    save_file(state.moments, path, metadata={"optimizer_step": str(state.optimizer_step)})


def load_moments(path: Path) -> tuple[dict[str, Tensor], int]:
    """Moments and step count; raises ArtifactCorrupted when the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            optimizer_step = int((file.metadata() or {})["optimizer_step"])
        return load_file(path), optimizer_step
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactCorrupted(
            f"optimiser state '{path}' cannot be read ({error}).", "train the previous stage again."
        ) from error


class CheckpointStore:
    """The checkpoints of one run, written one at a time by a background thread."""

    def __init__(self, directory: Path, kept: int = 2) -> None:
        self.directory = directory
        self._kept = kept
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.saved_step: int | None = None

    def save(self, state: TrainingState) -> None:
        """Write `state` in the background; its tensors must not change any more. Waits for the write before it.

        Raises whatever the previous write raised, StorageFull above all.
        """
        self.wait()
        self.saved_step = state.step
        self._pending = self._writer.submit(self._write, state)

    def wait(self) -> None:
        """Return when nothing is being written; raises what the last write raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load_latest(self, warn: Callable[[str], None]) -> TrainingState | None:
        """The newest intact checkpoint, or None; each damaged one on the way is told to `warn`."""
        for path in reversed(self._paths()):
            problem = _problem_of(path)
            if problem is None:
                state = _read(path)
                self.saved_step = state.step
                return state
            warn(f"checkpoint '{path.name}' {problem}; going back to the one before it")
        return None

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.glob(f"{_PREFIX}*") if path.is_dir())

    def _write(self, state: TrainingState) -> None:
        with explained_write_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self.directory.glob(f"{_TEMPORARY_PREFIX}*"):
                shutil.rmtree(leftover)
            final = self.directory / f"{_PREFIX}{state.step:08d}"
            temporary = self.directory / f"{_TEMPORARY_PREFIX}{final.name}"
            temporary.mkdir()
            _write_files(state, temporary)
            if final.exists():  # a damaged one of the same step
                shutil.rmtree(final)
            temporary.replace(final)
            sync_directory(self.directory)
            for outdated in self._paths()[: -self._kept]:
                shutil.rmtree(outdated)


def _write_files(state: TrainingState, directory: Path) -> None:
    save_file(state.weights, directory / WEIGHTS_FILE)
    save_moments(state, directory / OPTIMIZER_FILE)
    history = {"history": state.history, "timing": state.timing}
    (directory / HISTORY_FILE).write_text(json.dumps(history))
    checksums = {}
    for name in (WEIGHTS_FILE, OPTIMIZER_FILE, HISTORY_FILE):
        _synchronise(directory / name)
        checksums[name] = checksum_file(directory / name)
    description = {"step": state.step, "optimizer_step": state.optimizer_step, "files": checksums}
    with atomic_file(directory / DESCRIPTION_FILE) as stream:
        stream.write(json.dumps(description, indent=1).encode())


def _synchronise(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint directory, or None."""
    try:
        files: Mapping[str, str] = json.loads((path / DESCRIPTION_FILE).read_text())["files"]
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE, HISTORY_FILE):
            if checksum_file(path / name) != files[name]:
                return f"is damaged: {name} does not match its checksum"
    except FileNotFoundError as error:
        return f"is incomplete: {Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"has an unreadable {DESCRIPTION_FILE} ({error})"
    return None


def _read(path: Path) -> TrainingState:
    description = json.loads((path / DESCRIPTION_FILE).read_text())
    moments, optimizer_step = load_moments(path / OPTIMIZER_FILE)
    history = json.loads((path / HISTORY_FILE).read_text())
    return TrainingState(
        step=description["step"],
        optimizer_step=optimizer_step,
        weights=load_file(path / WEIGHTS_FILE),
        moments=moments,
        history=history["history"],
        timing=history["timing"],
    )


def cpu_copy(tensor: Tensor) -> Tensor:
    """An fp32 copy in main memory that training does not touch any more."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
