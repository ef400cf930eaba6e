"""Finding the checkpoint to continue from: the newest intact one, the same on all ranks, its files on this machine.

The first rank proposes, newest first; the ranks share the files out, verify them, fetch what is missing or damaged
here from the remote place, and add up what they found. One bad file anywhere, and the next is proposed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.errors import ArtifactCorrupted, PipelineError, SourceError
from infra.storage import DamagedObject, checksum_bytes
from tasks.training.checkpoints.description import Description
from tasks.training.checkpoints.place import CheckpointPlace, problem_of_file, step_directory
from tasks.training.checkpoints.ranks import EXACT_BITS, Ranks, SharedDirectory, from_first
from tasks.training.checkpoints.reading import Checkpoint

Warn = Callable[[str], None]
_OUTAGE = (PipelineError, OSError)


class CheckpointFinder:
    """damaged: (step, sequence) of checkpoints found damaged. newest_sequence: of all that say they are complete."""

    def __init__(
        self, here: CheckpointPlace, remote: CheckpointPlace | None, ranks: Ranks, sharing: SharedDirectory
    ) -> None:
        self.damaged: set[tuple[int, int]] = set()
        self.newest_sequence = 0
        self._here = here
        self._remote = remote
        self._ranks = ranks
        self._sharing = sharing
        self._outage: Exception | None = None

    def find(self, limit: int | None, warn: Warn) -> Checkpoint | None:
        """The newest intact checkpoint of at most `limit` updates; None when there is none.

        Raises SourceError when an unreachable place may hold one.
        """
        self._outage = None
        self._remove_unfinished(warn)
        candidates = self._candidates(warn) if self._ranks.rank == 0 else []
        self.newest_sequence = from_first(self._ranks, max((candidate.sequence for candidate in candidates), default=0))
        candidates = [candidate for candidate in candidates if limit is None or candidate.step <= limit]
        while number := from_first(self._ranks, candidates[0].step + 1 if candidates else 0):
            digest = from_first(self._ranks, _digest(candidates[0]) if candidates else 0)
            checkpoint, problem = self._verify(number - 1, digest)
            if checkpoint is not None:
                return checkpoint
            if self._ranks.rank == 0:
                refused = candidates.pop(0)
                self.damaged.add((refused.step, refused.sequence))
                warn(f"checkpoint '{step_directory(refused.step)}' {problem}; going back to the one before it")
        self._raise_outage()
        return None

    def forget_after(self, step: int, warn: Warn) -> None:
        """Remove the checkpoints of later updates, everywhere."""
        places = [self._here] if self._sharing.index == 0 else []
        places += [self._remote] if self._ranks.rank == 0 and self._remote is not None else []
        for place in places:
            try:
                for description in place.published(warn):
                    if description.step > step:
                        place.remove(description.step)
            except _OUTAGE as error:
                warn(f"later checkpoints could not be removed: {error}")
        self._ranks.sum(0.0)  # nobody goes on before

    def _remove_unfinished(self, warn: Warn) -> None:
        if self._sharing.index == 0:
            self._here.remove_unfinished()
        if self._ranks.rank == 0 and self._remote is not None:
            try:
                self._remote.remove_unfinished()
            except _OUTAGE as error:
                warn(f"unfinished checkpoints could not be removed: {error}")

    def _candidates(self, warn: Warn) -> list[Description]:
        """What the places say is complete, newest first; those here count before equal ones elsewhere."""
        found: dict[int, Description] = {}
        for place in filter(None, (self._here, self._remote)):
            try:
                for description in place.published(warn):
                    found.setdefault(_digest(description), description)
            except _OUTAGE as error:
                self._outage = error
                warn(f"the checkpoints at '{place.storage.uri()}' cannot be reached: {error}")
        return sorted(found.values(), key=lambda one: (one.sequence, one.step), reverse=True)

    def _verify(self, step: int, digest: int) -> tuple[Checkpoint | None, str]:
        """The checkpoint once all ranks agree that it is intact and here; else None and what is wrong."""
        description = self._description(step, digest)
        if self._ranks.sum(float(description is None))[0] or description is None:
            return None, "is not seen alike by all ranks"
        names = sorted(description.files)
        own = names[self._sharing.index :: self._sharing.count]
        bad = {name for name in own if not self._is_here(description, name)}
        counts = self._ranks.sum(*(float(name in bad) for name in names))
        damaged = [name for name, count in zip(names, counts, strict=True) if count]
        if damaged:
            return None, f"is damaged: {', '.join(damaged)} missing or not matching its checksum"
        self._complete_here(description)
        return Checkpoint(self._directory(step), description), ""

    def _description(self, step: int, digest: int) -> Description | None:
        for place in filter(None, (self._here, self._remote)):
            try:
                description = place.read(step)
            except (FileNotFoundError, ArtifactCorrupted, DamagedObject):
                continue
            except _OUTAGE as error:
                self._outage = error
                continue
            if _digest(description) == digest:
                return description
        return None

    def _is_here(self, description: Description, name: str) -> bool:
        """Whether a file is on this machine and intact, fetched if need be."""
        path = self._directory(description.step) / name
        record = description.files[name]
        if problem_of_file(path, record.checksum, record.size_bytes) is None:
            return True
        if self._remote is None:
            return False
        try:
            self._remote.fetch(description.step, name, path)
        except (FileNotFoundError, DamagedObject):
            return False
        except _OUTAGE as error:
            self._outage = error
            return False
        return problem_of_file(path, record.checksum, record.size_bytes) is None

    def _complete_here(self, description: Description) -> None:
        """Publish on this machine what came from elsewhere."""
        if self._sharing.index == 0:
            try:
                is_here = _digest(self._here.read(description.step)) == _digest(description)
            except (FileNotFoundError, ArtifactCorrupted):
                is_here = False
            if not is_here:
                self._here.publish(description)
        self._ranks.sum(0.0)  # nobody goes on before

    def _raise_outage(self) -> None:
        """On all ranks, when one of them could not reach a place."""
        if not self._ranks.sum(float(self._outage is not None))[0]:
            return
        if isinstance(self._outage, PipelineError):
            raise self._outage
        raise SourceError(
            f"no checkpoint could be read, and a place that may hold one failed ({self._outage or 'on another rank'}).",
            "see the warnings; run again when it can be reached.",
        )

    def _directory(self, step: int) -> Path:
        directory = self._here.storage.local_path(step_directory(step))
        assert directory is not None, "checkpoints are read from this machine's disk"
        return directory


def _digest(description: Description) -> int:
    return int(checksum_bytes(description.encode()).rpartition(":")[2], 16) % (1 << EXACT_BITS)
