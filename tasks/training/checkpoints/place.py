"""Where complete checkpoints are: a directory or a bucket, both with `step-00000120/checkpoint.json` and its files.

A checkpoint exists from the moment its `checkpoint.json` is there, which is written last and atomically; the files
it names carry the name of the attempt that wrote them, so writing the same step again replaces it in one moment.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ArtifactCorrupted
from infra.storage import DamagedObject, Storage
from infra.storage.checksum import checksum_file
from tasks.training.checkpoints.description import DESCRIPTION_FILE, Description, PartNote
from tasks.training.checkpoints.retention import RetentionPolicy

_PREFIX = "step-"


def step_directory(step: int) -> str:
    """Name of a step's directory."""
    return f"{_PREFIX}{step:08d}"


def part_name(kind: str, rank: int, ranks: int, attempt: str, suffix: str = ".safetensors") -> str:
    """Name of a file of one rank; `attempt` is different whenever a checkpoint is written."""
    return f"{kind}-{rank:05d}-of-{ranks:05d}-{attempt}{suffix}"


@dataclass(frozen=True)
class CheckpointPlace:
    """The checkpoints in one storage."""

    storage: Storage

    def write_note(self, step: int, name: str, note: PartNote) -> None:
        """Tell that a rank's files are all there."""
        self.storage.write(f"{step_directory(step)}/{name}", note.encode())

    def read_note(self, step: int, name: str) -> PartNote | None:
        """A rank's note; None when it has not left it yet."""
        key = f"{step_directory(step)}/{name}"
        try:
            return PartNote.decode(self.storage.read(key), self.storage.uri(key))
        except FileNotFoundError:
            return None

    def publish(self, description: Description) -> None:
        """Make a checkpoint whose files are all there exist."""
        self.storage.write(f"{step_directory(description.step)}/{DESCRIPTION_FILE}", description.encode())

    def read(self, step: int) -> Description:
        """One checkpoint's description. Raises FileNotFoundError, ArtifactCorrupted or DamagedObject."""
        key = f"{step_directory(step)}/{DESCRIPTION_FILE}"
        return Description.decode(self.storage.read(key), self.storage.uri(key))

    def published(self, warn: Callable[[str], None]) -> list[Description]:
        """Every checkpoint that says what it is; each one that cannot is told to `warn`."""
        found = []
        for step in self._steps(f"/{DESCRIPTION_FILE}"):
            try:
                found.append(self.read(step))
            except (ArtifactCorrupted, DamagedObject) as error:
                warn(f"{error.problem} That checkpoint is passed over.")
            except FileNotFoundError:
                continue  # removed since it was listed
        return found

    def fetch(self, step: int, file: str, path: Path) -> None:
        """Copy a checkpoint's file to this machine's disk."""
        self.storage.download(f"{step_directory(step)}/{file}", path)

    def prune(self, policy: RetentionPolicy, damaged: Iterable[tuple[int, int]] = ()) -> None:
        """Remove what the policy does not keep, and what killed or failed attempts left.

        damaged: (step, sequence) of checkpoints that count as if they were not there. Nobody else may be writing.
        """
        complete = [found for found in self.published(lambda _: None) if (found.step, found.sequence) not in damaged]
        if not complete:
            return
        kept = policy.kept(complete)
        files = {found.step: {*found.files, DESCRIPTION_FILE} for found in complete if found.step in kept}
        for step in self._steps():
            self._remove(step, keep=files.get(step, set()))

    def remove(self, step: int) -> None:
        """Remove one step's checkpoint."""
        self._remove(step, keep=set())

    def remove_unfinished(self) -> None:
        """Remove what killed writers left: steps without a description. Nobody else may be writing."""
        described = set(self._steps(f"/{DESCRIPTION_FILE}"))
        for step in set(self._steps()) - described:
            self.remove(step)
        self.storage.discard_unfinished()

    def _steps(self, suffix: str = "") -> list[int]:
        names = {stored.key.partition("/")[0] for stored in self.storage.list(_PREFIX) if stored.key.endswith(suffix)}
        return sorted(int(name.removeprefix(_PREFIX)) for name in names if name.removeprefix(_PREFIX).isdecimal())

    def _remove(self, step: int, keep: set[str]) -> None:
        prefix = f"{step_directory(step)}/"
        keys = [stored.key for stored in self.storage.list(prefix) if stored.key.removeprefix(prefix) not in keep]
        # First what makes it exist: a removal that is cut short leaves no damaged checkpoint.
        keys.sort(key=lambda key: not key.endswith(f"/{DESCRIPTION_FILE}"))
        self.storage.delete_many(keys)
        local = self.storage.local_path(prefix)
        if local is not None and not keep:
            shutil.rmtree(local, ignore_errors=True)


def problem_of_file(path: Path, checksum: str, size_bytes: int) -> str | None:
    """What is wrong with a file on this machine's disk, or None."""
    try:
        if path.stat().st_size != size_bytes or checksum_file(path) != checksum:
            return f"{path.name} does not match its checksum"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error})"
    return None
