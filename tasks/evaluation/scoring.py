"""The evaluation's questions, put to any model of the contract; and to a hybrid model directly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from model import Cache, HybridLM
from model.interface import Continuation, ModelInterface
from tasks.evaluation.language_model import FloatArray, IntArray

#: Logits of one forward pass, at most (one row at least): 256 MiB in float32.
_LOGITS_LIMIT = 1 << 26


class InterfaceScorer:
    """A `ModelInterface`, whatever its file and runtime, as a `LanguageModel`."""

    def __init__(self, model: ModelInterface) -> None:
        self.model = model

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        """See `LanguageModel`."""
        return [-scores for scores in self.model.score_tokens([row.tolist() for row in rows])]

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        """See `LanguageModel`. A context's candidates stand together, so that it can be read once."""
        asked = [
            Continuation(context, tokens)
            for context, row in zip(contexts.tolist(), candidates, strict=True)
            for tokens in row
        ]
        scores = self.model.score_continuations(asked)
        return -np.array([score.log_likelihood for score in scores]).reshape(len(contexts), -1)


class HybridScorer:
    """A `HybridLM` as a `LanguageModel`; `batch_tokens` bounds one forward pass (one row at least)."""

    def __init__(self, model: HybridLM, batch_tokens: int = 8192) -> None:
        self.model = model.eval()
        self.batch_tokens = max(1, min(batch_tokens, _LOGITS_LIMIT // model.config.vocabulary_size))

    @torch.inference_mode()
    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        """See `LanguageModel`. Rows of like length go together; padding is to the right, so causally unseen."""
        nats: list[FloatArray] = [np.zeros(0)] * len(rows)
        for indices in batches_by_length([len(row) for row in rows], self.batch_tokens):
            tokens = padded([rows[index] for index in indices])
            logits = self.model(tokens[:, :-1]).float()
            losses = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
            table = losses.view(len(indices), -1).double().numpy()
            for place, index in enumerate(indices):
                nats[index] = table[place, : len(rows[index]) - 1]
        return nats

    @torch.inference_mode()
    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        """See `LanguageModel`. Each context is read once; its candidates continue copies of its cache."""
        rows = max(1, self.batch_tokens // contexts.shape[1])
        parts = [
            self._continue(torch.from_numpy(contexts[start : start + rows]), candidates[start : start + rows])
            for start in range(0, len(contexts), rows)
        ]
        return torch.cat(parts).double().numpy()

    def _continue(self, contexts: torch.Tensor, candidates: Sequence[Sequence[Sequence[int]]]) -> torch.Tensor:
        """[batch, candidates] nats for one batch of contexts."""
        count = len(candidates[0])
        flat = [np.array(tokens) for row in candidates for tokens in row]
        tokens = padded(flat)  # [batch * candidates, longest]
        cache = self.model.new_cache()
        first = self.model(contexts, cache=cache, logits_for="last")[:, -1].float()
        logits = first.repeat_interleave(count, dim=0).unsqueeze(1)
        if tokens.shape[1] > 1:
            more = self.model(tokens[:, :-1], cache=repeat_cache(cache, count)).float()
            logits = torch.cat([logits, more], dim=1)
        losses = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        lengths = torch.tensor([len(row) for row in flat]).unsqueeze(1)
        inside = torch.arange(tokens.shape[1]) < lengths
        return torch.where(inside, losses, 0.0).sum(dim=1).view(len(candidates), count)


def repeat_cache(cache: Cache, count: int) -> Cache:
    """A new cache with each sequence `count` times in a row."""
    return cache.select([row for row in range(cache.batch) for _ in range(count)])


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
