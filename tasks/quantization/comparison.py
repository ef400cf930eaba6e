"""How far a quantized model has moved from the original, token by token of held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from model import HybridLM
from tasks.evaluation.scoring import batches_by_length, padded

#: Logits of one forward pass, at most (one row at least): 64 MiB in float32, held about six times.
_LOGITS_LIMIT = 1 << 24


@dataclass(frozen=True)
class Comparison:
    """Means over the predicted tokens."""

    tokens: int
    loss: float  # nats a token
    original_loss: float
    kl: float  # nats a token: KL(original || quantized)
    agreement: float  # share of tokens where both find the same one likeliest

    @property
    def perplexity(self) -> float:
        """Of the quantized model."""
        return math.exp(min(self.loss, 700.0))

    @property
    def increase_percent(self) -> float:
        """Of perplexity over the original's; not a number when the model is broken."""
        return 100 * math.expm1(min(self.loss - self.original_loss, 700.0))


@torch.inference_mode()
def compare(
    original: HybridLM, quantized: HybridLM, rows: Sequence[npt.NDArray[np.int64]], batch_tokens: int
) -> Comparison:
    """Run both models over the rows; every token but each row's first is predicted."""
    limit = max(1, min(batch_tokens, _LOGITS_LIMIT // original.config.vocabulary_size))
    sums = torch.zeros(4, dtype=torch.float64)
    for indices in batches_by_length([len(row) for row in rows], limit):
        chosen = [rows[index] for index in indices]
        tokens = padded(chosen)
        lengths = torch.tensor([len(row) for row in chosen]).unsqueeze(1)
        inside = torch.arange(1, tokens.shape[1]) < lengths
        theirs, ours = (model(tokens[:, :-1])[inside].float().log_softmax(dim=-1) for model in (original, quantized))
        targets = tokens[:, 1:][inside]
        divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
        same = ours.argmax(dim=-1) == theirs.argmax(dim=-1)
        losses = (functional.nll_loss(part, targets, reduction="none") for part in (ours, theirs))
        sums += torch.stack([part.double().sum() for part in (*losses, divergence, same)])
    count = sum(len(row) - 1 for row in rows)
    return Comparison(count, *(sums / count).tolist())
