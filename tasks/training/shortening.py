"""Doing with less: a curriculum on its way is made shorter, and keeps what it has learnt.

Every context length is kept, because the long ones, which come last, are what a curriculum is for: what is left of the
running stage and of all later ones shrinks alike. Nothing here knows of money: whoever does computes the share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.errors import ConfigurationError
from tasks.training.config import TrainingStageConfig
from tasks.training.schedule import Cut

#: Updates that a shortened stage still makes, at least: with fewer its schedule has no shape.
MINIMUM_STEPS = 10


def remaining_steps(stages: Sequence[TrainingStageConfig], done_steps: Mapping[str, int]) -> dict[str, int]:
    """Updates that each stage still has to make, by its name; done_steps: those made, by name, 0 where left out.

    Raises ConfigurationError when they cannot be: a stage that began before the one before it had ended.
    """
    unknown = set(done_steps) - {stage.name for stage in stages}
    if unknown:
        raise ConfigurationError(
            f"updates were counted of {', '.join(sorted(unknown))}, which is no stage of the curriculum.",
            f"use names of: {', '.join(stage.name for stage in stages)}.",
        )
    remaining: dict[str, int] = {}
    for stage in stages:
        done = done_steps.get(stage.name, 0)
        unfinished = [name for name, left in remaining.items() if left]
        if not 0 <= done <= stage.steps or (done and unfinished):
            reason = f"while '{unfinished[0]}' is not finished" if done and unfinished else f"of {stage.steps}"
            raise ConfigurationError(
                f"stage '{stage.name}' cannot have made {done} updates {reason}.",
                "count the updates of the stages as they are in force (`done_updates`).",
            )
        remaining[stage.name] = stage.steps - done
    return remaining


def shorten_curriculum(
    stages: Sequence[TrainingStageConfig],
    done_steps: Mapping[str, int],
    keep: float | Mapping[str, float],
    *,
    minimum_steps: int = MINIMUM_STEPS,
) -> list[TrainingStageConfig]:
    """The stages, each with `keep` of the updates it still had to make, but not fewer than `minimum_steps` of them.

    stages: as they are in force, cut already or not. done_steps: updates made, by stage name (0 where left out).
    keep: a share in 0..1 for all, or by stage name (1 where left out). Finished stages stay as they are, and so do
    those that have no more than the minimum left: `remaining_steps` of the result says what it still takes.
    Raises ConfigurationError for shares and updates that cannot be.
    """
    remaining = remaining_steps(stages, done_steps)
    shares = {name: keep.get(name, 1.0) if isinstance(keep, Mapping) else keep for name in remaining}
    wrong = {name: share for name, share in shares.items() if not 0 <= share <= 1}
    wrong |= {name: keep[name] for name in set(keep) - set(remaining)} if isinstance(keep, Mapping) else {}
    if wrong:
        told = ", ".join(f"{name}: {share:g}" for name, share in sorted(wrong.items()))
        raise ConfigurationError(
            f"these shares of a stage's updates cannot be kept: {told}.", f"give 0 to 1 for any of {', '.join(shares)}."
        )
    shortened = []
    for stage in stages:
        left = remaining[stage.name]
        kept = min(left, max(minimum_steps, round(shares[stage.name] * left)))
        shortened.append(_cut(stage, stage.steps - left, stage.steps - left + kept))
    return shortened


def stop_at(stages: Sequence[TrainingStageConfig], done_steps: Mapping[str, int]) -> list[TrainingStageConfig]:
    """The stages that there is something of: finished ones, and the running one, which ends with what it has made.

    Raises ConfigurationError when no update was made at all: then there is no model to keep.
    """
    remaining_steps(stages, done_steps)  # raises for updates that cannot be
    begun = [(stage, done_steps.get(stage.name, 0)) for stage in stages if done_steps.get(stage.name, 0)]
    if not begun:
        raise ConfigurationError(
            "training was stopped before its first update: there is no model to keep.",
            "approve a higher ceiling, or end the run.",
        )
    return [_cut(stage, done, done) for stage, done in begun]


def _cut(stage: TrainingStageConfig, done: int, steps: int) -> TrainingStageConfig:
    if steps == stage.steps:
        return stage
    return TrainingStageConfig.model_validate(
        {**stage.model_dump(), "cuts": (*stage.cuts, Cut(after_step=done, steps=steps))}
    )
