"""The loss on held-out rows, the same rows every time."""

from __future__ import annotations

from typing import Self

import torch

from tasks.training.data_order import Sampler
from tasks.training.engine import Placement, TrainingEngine
from tasks.training.job import TrainingJob


class Validation:
    """Held-out rows of the stage's context, dealt to the ranks."""

    def __init__(self, job: TrainingJob, placement: Placement, engine: TrainingEngine, sampler: Sampler) -> None:
        self._rows = job.config.validation_rows
        self._plan = job.config.batch_plan
        self._placement, self._engine, self._sampler = placement, engine, sampler

    @classmethod
    def of(cls, job: TrainingJob, placement: Placement, engine: TrainingEngine) -> Self | None:
        """None when the stage measures none, or the tokens artifact holds none out."""
        documents = job.validation_documents() if job.config.validation_rows else None
        if documents is None:
            return None
        # The same rows in every stage of equal context and for every seed, so that losses compare.
        sampler = Sampler(documents, context_tokens=job.config.context_tokens, seed=0, stage="validation")
        return cls(job, placement, engine, sampler)

    def loss(self) -> float:
        """Mean over the rows' targets, nats a token; every rank must call this."""
        plan, rank = self._plan, self._placement.rank
        total = torch.zeros((), dtype=torch.float64, device=self._placement.device)
        targets = 0
        for first in range(0, self._rows, plan.micro_batch * plan.data_ranks):
            own = first + rank // plan.sequence_parallel * plan.micro_batch
            batch = self._sampler.batch(own, plan.micro_batch)
            batch = batch.slice(plan.sequence_rank(rank), plan.sequence_parallel)
            total += self._engine.evaluate(batch)
            targets += batch.target_count
        loss, count = self._placement.sum(total, targets)
        return loss / count
