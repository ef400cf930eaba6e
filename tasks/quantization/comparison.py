"""How far a quantized model has moved from the original, token by token of held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model.interface import ModelInterface

#: Log-probabilities computed at a time: 32 MiB a model in double precision.
_BLOCK = 1 << 22

Logits = npt.NDArray[np.float32]


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
    def original_perplexity(self) -> float:
        """Of the model it is compared with."""
        return math.exp(min(self.original_loss, 700.0))

    @property
    def increase_percent(self) -> float:
        """Of perplexity over the original's; not a number when the model is broken."""
        return 100 * math.expm1(min(self.loss - self.original_loss, 700.0))


def compare(
    model: ModelInterface, references: Sequence[ModelInterface], rows: Sequence[Sequence[int]]
) -> list[Comparison]:
    """The model beside each reference; every token but each row's first is predicted.

    All read the same row side by side, so that memory holds some pieces of logits and never those of a whole text.
    """
    sums = torch.zeros(len(references), 4, dtype=torch.float64)
    for row in rows:
        targets = torch.tensor(row[1:])
        streams = [one.logits(row[:-1]) for one in (model, *references)]
        for start, (ours, *others) in blocks(streams):
            expected = targets[start : start + len(ours)]
            sums += torch.stack([_judged(ours, theirs, expected) for theirs in others])
    count = sum(len(row) - 1 for row in rows)
    return [Comparison(count, *means) for means in (sums / count).tolist()]


def unchanged(model: ModelInterface, rows: Sequence[Sequence[int]]) -> Comparison:
    """The original beside itself."""
    scores = np.concatenate(model.score_tokens(rows))
    loss = -float(scores.mean())
    return Comparison(len(scores), loss, loss, 0.0, 1.0)


def blocks(streams: Sequence[Iterator[Logits]]) -> Iterator[tuple[int, list[Tensor]]]:
    """Log-probabilities of the same tokens from every stream, in double precision, and the place of the first.

    The streams may come in pieces of different lengths; together they are as long.
    """
    held: list[Logits | None] = [next(stream, None) for stream in streams]
    start = 0
    while all(piece is not None for piece in held):
        pieces = [piece for piece in held if piece is not None]
        size = min(max(1, _BLOCK // pieces[0].shape[1]), *map(len, pieces))
        yield start, [torch.from_numpy(piece[:size]).double().log_softmax(dim=-1) for piece in pieces]
        start += size
        held = [
            piece[size:] if len(piece) > size else next(stream, None)
            for piece, stream in zip(pieces, streams, strict=True)
        ]
    assert not any(piece is not None for piece in held), "the models read different numbers of tokens"


def _judged(ours: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
    """Sums over the tokens: our loss, theirs, KL(theirs || ours), and how often both find the same one likeliest."""
    divergence = functional.kl_div(ours, theirs, reduction="sum", log_target=True)
    same = (ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum()
    losses = (functional.nll_loss(part, targets, reduction="sum") for part in (ours, theirs))
    return torch.stack([*losses, divergence, same.double()])
