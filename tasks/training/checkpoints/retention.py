"""Which checkpoints are kept: a policy as data, and what it says about a list of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.training.checkpoints.description import Description

#: Entry of a checkpoint's progress by which the best one is chosen; smaller is better.
VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True)
class RetentionPolicy:
    """What stays when a new checkpoint is complete; the new one always does.

    newest: so many of the newest. best: the one with the least validation loss. every_steps: those whose step is
    a multiple of it. behind_steps: one at least so many updates older than the newest, to go back to.
    """

    newest: int = 2
    best: bool = True
    every_steps: int | None = None
    behind_steps: int = 0

    def kept(self, checkpoints: Iterable[Description]) -> set[int]:
        """Steps of the checkpoints that stay, of these complete ones."""
        by_age = sorted(checkpoints, key=lambda checkpoint: checkpoint.sequence)
        steps = {checkpoint.step for checkpoint in by_age[-max(self.newest, 1) :]}
        measured = [checkpoint for checkpoint in by_age if math.isfinite(_loss(checkpoint))]
        if self.best and measured:
            steps.add(min(measured, key=_loss).step)
        behind = [other.step for other in by_age if other.step + self.behind_steps <= by_age[-1].step]
        if self.behind_steps and behind:
            steps.add(max(behind))
        if self.every_steps:
            steps |= {checkpoint.step for checkpoint in by_age if checkpoint.step % self.every_steps == 0}
        return steps


def _loss(checkpoint: Description) -> float:
    loss = checkpoint.progress.get(VALIDATION_LOSS)
    return float(loss) if isinstance(loss, (int, float)) else math.inf
