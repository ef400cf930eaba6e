"""A hybrid model's answers to the evaluation's questions, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from model import HybridLM
from tasks.evaluation.language_model import FloatArray, IntArray


class HybridScorer:
    """A `HybridLM` as a `LanguageModel`; `batch_tokens` bounds one forward pass (one row at least)."""

    def __init__(self, model: HybridLM, batch_tokens: int = 8192) -> None:
        self.model = model.eval()
        self._batch_tokens = batch_tokens

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        """See `LanguageModel`. Rows of like length go together; padding is to the right, so causally unseen."""
        nats: list[FloatArray] = [np.zeros(0)] * len(rows)
        for indices in batches_by_length([len(row) for row in rows], self._batch_tokens):
            tokens = padded([rows[index] for index in indices])
            losses = self._losses(tokens).double().numpy()
            for place, index in enumerate(indices):
                nats[index] = losses[place, : len(rows[index]) - 1]
        return nats

    @torch.inference_mode()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after every position. [batch, time] -> [batch, time, vocabulary]"""
        logits: torch.Tensor = self.model(tokens)
        return logits.float()

    def _losses(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.logits(tokens[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def padded(rows: Sequence[IntArray]) -> torch.Tensor:
    """Rows as one [batch, longest] tensor, filled up with token 0 on the right."""
    tokens = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.long)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.from_numpy(row)
    return tokens


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of rows in batches: alike in length, and together at most `batch_tokens` with padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
