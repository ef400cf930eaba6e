"""The checkpoints of one run: saved in the background by every rank, found again intact by any ranks.

What one rank must know of the others is exchanged on the thread that trains: one collective a save, a few a load.
All ranks call `save`, `wait` and the `load` functions at the same points.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.errors import PipelineError, StorageFull
from infra.storage import LocalStorage, open_storage
from tasks.training.checkpoints.errors import CheckpointFailed
from tasks.training.checkpoints.finding import CheckpointFinder
from tasks.training.checkpoints.fragments import Fragment
from tasks.training.checkpoints.place import CheckpointPlace
from tasks.training.checkpoints.ranks import EXACT_BITS, Ranks, SharedDirectory, from_first
from tasks.training.checkpoints.reading import Checkpoint
from tasks.training.checkpoints.retention import RetentionPolicy
from tasks.training.checkpoints.snapshot import Snapshot
from tasks.training.checkpoints.writing import Attempt, Content


class CheckpointStore:
    """The checkpoints of one run, in a directory and, where `remote` is given, in a bucket or another directory.

    With several ranks the directory is either shared by all of them, or there is a `remote`, and the directory only
    holds what passes through. `warn` is told, from any thread and on any rank, of every write that failed, every
    damaged checkpoint and every save that is put off.
    """

    def __init__(
        self,
        directory: Path,
        remote: str | None,
        ranks: Ranks,
        policy: RetentionPolicy,
        warn: Callable[[str], None],
    ) -> None:
        """Find out what the ranks share. Raises ConfigurationError when they share neither directory nor remote."""
        self.directory = directory
        self.saved_step: int | None = None
        self._ranks = ranks
        self._policy = policy
        self._warn = warn
        self._snapshot = Snapshot()
        self._attempt: Attempt | None = None
        self._sequence = 0
        self._sharing = SharedDirectory.find_out(directory, ranks, has_remote=remote is not None)
        self._here = CheckpointPlace(LocalStorage(directory))
        self._remote = CheckpointPlace(open_storage(remote)) if remote else None
        self._finder = CheckpointFinder(self._here, self._remote, ranks, self._sharing)
        self._run = f"{from_first(ranks, secrets.randbits(EXACT_BITS)):012x}"
        self._put_off_told = False

    def save(
        self,
        step: int,
        fragments: Sequence[Fragment],
        progress: Mapping[str, Any],
        series: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        *,
        wait: bool = False,
    ) -> bool:
        """Copy the state and write it in the background; return whether that was begun.

        progress: small JSON; its `validation_loss`, if any, tells the best checkpoint. series: append-only lists of
        JSON objects, each a file of its own. Both count on the first rank.
        While the checkpoint before is still being written this one is put off (False): call again after the next
        update. With `wait` it is not: the one before is waited for, this one is written and its outcome raised
        (StorageFull, CheckpointFailed, SourceError); one already complete for this step is not written again.
        """
        if wait:
            problem = self._settle()
            if self.saved_step == step and problem is None:
                return True
        elif self.saved_step == step or not self._is_free(step):
            return self.saved_step == step
        self._begin(step, fragments, progress, series or {})
        if wait:
            self.wait()
        return True

    def wait(self) -> None:
        """Return when nothing is being written any more; raises what the last attempt failed with, on all ranks."""
        problem = self._settle()
        if problem is not None:
            raise problem

    def before_update(self) -> None:
        """To be called before every update of weights: it must not overtake the copying of the last `save`."""
        self._snapshot.before_update()

    def load_latest(self, warn: Callable[[str], None] | None = None) -> Checkpoint | None:
        """The newest intact checkpoint, or None; each damaged one on the way is told to `warn`.

        Its files are on this machine afterwards; the ranks share the work of verifying and fetching them, and agree.
        A damaged file here is replaced by the remote one. Raises SourceError when none is intact here and the remote
        place cannot be reached: starting anew then would lose what is there.
        """
        return self._load(None, warn or self._warn)

    def load_at_or_before(self, step: int, warn: Callable[[str], None] | None = None) -> Checkpoint | None:
        """The newest intact checkpoint of at most so many updates, or None, to go back to.

        Those of later steps are removed once it is found: what follows is another history.
        """
        checkpoint = self._load(step, warn or self._warn)
        if checkpoint is not None:
            self._finder.forget_after(checkpoint.step, warn or self._warn)
        return checkpoint

    def _is_free(self, step: int) -> bool:
        """Whether the attempt before is over, on all ranks; tells `warn` when not."""
        attempt = self._attempt
        writing, publishing, failed = self._ranks.sum(
            float(attempt is not None and attempt.is_writing),
            float(attempt is not None and attempt.is_publishing),
            float(attempt is not None and attempt.error is not None),
        )
        if writing or (publishing and not failed):
            if self._ranks.rank == 0 and not self._put_off_told:
                self._put_off_told = True
                self._warn(f"the checkpoint of update {step} is put off: the one before is still being written")
            return False
        if attempt is not None:
            attempt.cancel()
            attempt.join_publisher()
            if failed:
                self._ranks.sum(0.0)  # the first rank may only now have published it
                attempt.discard()
        return True

    def _begin(
        self,
        step: int,
        fragments: Sequence[Fragment],
        progress: Mapping[str, Any],
        series: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> None:
        self._sequence += 1
        self._put_off_told = False
        self._attempt = Attempt(
            content=Content(
                step=step,
                sequence=self._sequence,
                fragments=self._snapshot.take(fragments),
                progress=json.loads(json.dumps(progress)),
                series={name: list(records) for name, records in series.items()},
            ),
            name=f"{self._run}-{self._sequence}",
            rank=self._ranks.rank,
            ranks=self._ranks.ranks,
            directory=self.directory,
            local=self._here if self._sharing.by_all else None,
            remote=self._remote,
            wait_for_copies=self._snapshot.wait,
            published=self._prune,
            warn=self._warn,
        )
        self.saved_step = step
        self._attempt.start()

    def _settle(self) -> PipelineError | None:
        """Wait until the attempt is over on all ranks; return what it failed with: this rank's error, or another's."""
        attempt = self._attempt
        if attempt is None:
            return None
        attempt.join_writer()
        if sum(self._failures(attempt)):
            attempt.cancel()
        attempt.join_publisher()
        full, other = self._failures(attempt)
        if not full + other:
            return None
        self.saved_step = None
        attempt.discard()
        if attempt.error is not None:
            return attempt.error
        kind = StorageFull if full else CheckpointFailed
        return kind(
            f"{full + other:.0f} other rank(s) could not write their part of the checkpoint of update "
            f"{attempt.content.step}.",
            "see their warnings; run again: training continues from the last complete checkpoint.",
        )

    def _failures(self, attempt: Attempt) -> tuple[float, float]:
        """Ranks that failed: for want of space, and otherwise."""
        full = isinstance(attempt.error, StorageFull)
        counts = self._ranks.sum(float(full), float(attempt.error is not None and not full))
        return counts[0], counts[1]

    def _prune(self, place: CheckpointPlace) -> None:
        try:
            place.prune(self._policy, self._finder.damaged)
        except (OSError, PipelineError) as error:
            self._warn(f"old checkpoints could not be removed: {error}")

    def _load(self, limit: int | None, warn: Callable[[str], None]) -> Checkpoint | None:
        self._settle()  # its failure has been told
        self._attempt = None
        checkpoint = self._finder.find(limit, warn)
        self._sequence = max(self._sequence, self._finder.newest_sequence)
        self.saved_step = checkpoint.step if checkpoint is not None else None
        return checkpoint
