"""Which configurations a calibration measures: the contexts of a curriculum, each in two sizes of micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.calibration.setup import Setup, Variant
from tasks.training import TrainingStageConfig

#: More contexts than these leave too little time for each.
MOST_CONTEXTS = 4
_FEWEST_CONTEXTS = 3
_SMALLER_MICRO_BATCH = 4
_SHORTEST_CONTEXT = 32
#: Far more updates than are made, so that nothing that happens at a stage's end does.
_ENDLESS_UPDATES = 1 << 20
_NEVER_SECONDS = 1e9
#: Weights hardly move: random tokens teach nothing, and a loss that blows up would stop the trainer.
_LEARNING_RATE = 1e-6


def points_of(stages: Sequence[TrainingStageConfig], contexts: Sequence[int] = ()) -> list[TrainingStageConfig]:
    """The configurations to measure for stages of one variant, the least tokens first.

    At most four of the stages' contexts (or all of `contexts`), and shorter ones where there are fewer than three;
    of each the planned micro-batch and one of a quarter of its rows. Raises pydantic's ValidationError for a context
    that the model or the ranks cannot have.
    """
    found: dict[tuple[int, int], TrainingStageConfig] = {}
    for context in contexts or _contexts(sorted({stage.context_tokens for stage in stages})):
        nearest = min(stages, key=lambda stage: abs(stage.context_tokens - context))
        plan = nearest.batch_plan
        rows = max(1, plan.micro_batch * nearest.context_tokens // context)
        for micro_batch in (rows, max(1, rows // _SMALLER_MICRO_BATCH)):
            found[context, micro_batch] = point(nearest, context, micro_batch, min(2, plan.accumulation))
    return sorted(found.values(), key=lambda one: (one.context_tokens * one.batch_plan.micro_batch, one.context_tokens))


def variants_of(stages: Sequence[TrainingStageConfig]) -> dict[Variant, list[TrainingStageConfig]]:
    """The stages by variant. All must have one setup, as the stages of a profile do."""
    assert len({Setup.of(stage) for stage in stages}) == 1, "stages of several setups"
    found: dict[Variant, list[TrainingStageConfig]] = {}
    for stage in stages:
        found.setdefault(Variant.of(stage), []).append(stage)
    return found


def point(stage: TrainingStageConfig, context: int, micro_batch: int, accumulation: int) -> TrainingStageConfig:
    """A stage like `stage` that trains on rows of `context` tokens, `accumulation` micro-batches an update and rank."""
    batch_tokens = context * micro_batch * accumulation * stage.data_ranks
    changes: dict[str, Any] = {
        "name": f"calibration-{context}-{micro_batch}",
        "context_tokens": context,
        "micro_batch": micro_batch,
        "batch_tokens": batch_tokens,
        "tokens": batch_tokens * _ENDLESS_UPDATES,
        "learning_rate": _LEARNING_RATE,
        "final_learning_rate": 0.0,
        "warmup_steps": 0,
        "mixture": None,
        "long_documents": None,
        "packing": "stream",
        "data_order": None,
        "first_row": 0,
        "cuts": (),
        "validation_rows": 0,
        "checkpoint_every_fraction": 1.0,
        "checkpoint_every_seconds": _NEVER_SECONDS,
        "profile_steps": None,
        "slow_step_profiles": 0,
    }
    return TrainingStageConfig.model_validate(stage.model_dump() | changes)


def _contexts(own: Sequence[int]) -> list[int]:
    """The shortest, the longest and some between, of ascending contexts; with halves where there are too few."""
    chosen = spread_out(own, MOST_CONTEXTS)
    while len(chosen) < _FEWEST_CONTEXTS and chosen[0] // 2 >= _SHORTEST_CONTEXT:
        chosen.insert(0, chosen[0] // 2)
    return chosen


def spread_out(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values: the first, the last and some between."""
    if len(values) <= count:
        return list(values)
    return [values[index * (len(values) - 1) // (count - 1)] for index in range(count)]
