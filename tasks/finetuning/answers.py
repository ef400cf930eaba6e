"""Rows of conversations with the loss on answers alone: a pure function of (seed, row), as all data orders are.

Conversations are packed by the training stage's best-fit packing: none runs from one row into the next, and
`document_ids` keep attention and states of neighbours apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tasks.finetuning.encoding import answers_of
from tasks.tokenization.token_shards import TokenDataset, TokenShard
from tasks.training import TrainingStageConfig
from tasks.training.data_order import Batch, Documents, Reading, Sampler
from tasks.training.data_order.batch import NO_TARGET

SOURCE_NAMES = ["conversations"]
_ANSWER = 1


class Conversations(TokenDataset):
    """Encoded conversations; `answers` are documents of the same lengths whose tokens mark the answers' by 1."""

    def __init__(self, prefix: Path) -> None:
        """`prefix` is of the tokens' shard; the answers' marks lie beside it."""
        super().__init__([TokenShard(prefix)], SOURCE_NAMES)
        self.answers = TokenDataset([TokenShard(answers_of(prefix))], SOURCE_NAMES)


class AnswerSampler:
    """A sampler of conversations whose targets are the answers' tokens."""

    def __init__(self, conversations: Conversations, *, context_tokens: int, seed: int, stage: str) -> None:
        """`stage` is the name of the data order."""
        self._tokens, self._marks = (
            Sampler(documents, context_tokens=context_tokens, seed=seed, stage=stage, packing="best_fit")
            for documents in (conversations, conversations.answers)
        )
        self.context_tokens = context_tokens

    @property
    def epoch_tokens(self) -> int:
        """Tokens of all conversations."""
        return self._tokens.epoch_tokens

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every conversation once."""
        padded = self._tokens.statistics()[0].padded_share
        return round(self.epoch_tokens / (1 - padded) / self.context_tokens)

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows [first_row, first_row + rows) of the run."""
        batch = self._tokens.batch(first_row, rows)
        answers = self._marks.batch(first_row, rows).targets == _ANSWER
        return Batch(batch.tokens, torch.where(answers, batch.targets, NO_TARGET), batch.document_ids)

    def target_count(self, first_row: int, rows: int) -> int:
        """Answer tokens in those rows: what a global mean divides by, the same on every rank."""
        return int((self._marks.batch(first_row, rows).targets == _ANSWER).sum())

    def table(self, rows: int) -> list[dict[str, Any]]:
        """What the conversations give to so many rows of the run, one entry a group, for people."""
        return self._tokens.table(rows)

    def reading(self) -> Reading | None:
        """What is being read at this moment; None when nothing is. Any thread may ask."""
        return self._tokens.reading() or self._marks.reading()


class AdapterStageConfig(TrainingStageConfig):
    """The training of adapters: a stage whose rows are conversations."""

    def sampler(self, documents: Documents) -> AnswerSampler:  # type: ignore[override]
        """The rows of the stage's data order; `documents` are conversations."""
        assert isinstance(documents, Conversations)
        return AnswerSampler(documents, context_tokens=self.context_tokens, seed=self.seed, stage=self.name)
