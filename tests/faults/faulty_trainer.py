"""The real trainer, with poison in its data: run as `python -m tests.faults.faulty_trainer JOB.json`.

`poison.json` beside the job names batches: of `nan` ones the loss is not a number, of `noise` ones the tokens are
random, so that the model's loss on them leaps up. Both come again whenever the batch is trained on.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from tasks.training import trainer
from tasks.training.data_order import Batch, Sampler
from tasks.training.job import TrainingJob
from tasks.training.loading import LoadedUpdate


def poison(job_path: Path) -> None:
    """Put the poison into the trainer's classes."""
    path = job_path.with_name("poison.json")
    if not path.exists():
        return
    poisoned = json.loads(path.read_text())
    job = TrainingJob.read(job_path)
    _without_numbers(set(poisoned.get("nan", [])))
    _with_noise(set(poisoned.get("noise", [])), job)


def _without_numbers(batches: set[int]) -> None:
    accumulate = trainer.Trainer._accumulate

    def poisoned(self: Any, loaded: LoadedUpdate) -> torch.Tensor:
        loss = accumulate(self, loaded)
        return loss * math.nan if loaded.batch in batches else loss

    trainer.Trainer._accumulate = poisoned  # type: ignore[method-assign]


def _with_noise(batches: set[int], job: TrainingJob) -> None:
    plan, vocabulary = job.config.batch_plan, job.config.model.vocabulary_size
    make = Sampler.batch

    def noisy(self: Sampler, first_row: int, rows: int) -> Batch:
        batch = make(self, first_row, rows)
        number = first_row // plan.rows_per_step
        # The validation rows are batches of another sampler and keep their meaning.
        if number not in batches or rows != plan.micro_batch or self.context_tokens != job.config.context_tokens:
            return batch
        generator = torch.Generator().manual_seed(first_row)
        tokens = torch.randint(1, vocabulary, batch.tokens.shape, generator=generator)
        targets = torch.randint(1, vocabulary, batch.tokens.shape, generator=generator)
        return Batch(tokens, torch.where(batch.targets >= 0, targets, batch.targets), batch.document_ids)

    Sampler.batch = noisy  # type: ignore[method-assign]


if __name__ == "__main__":
    poison(Path(sys.argv[1]))
    sys.exit(trainer.main(Path(sys.argv[1])))
