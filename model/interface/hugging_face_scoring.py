"""Likelihoods from a model of transformers in batches: of whole rows, and of continuations that share contexts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.interface.contract import Continuation, ContinuationScore, FloatArray
from model.interface.hugging_face_reading import TOKENS_AT_ONCE, CausalModel, Feeding, RowReader
from model.interface.hybrid_scoring import grouped

#: Logits held at a time, 256 MiB in float32; those of one row at least.
_LOGITS_AT_ONCE = 1 << 26


def logit_tokens(model: CausalModel) -> int:
    """Tokens whose logits may be held at a time."""
    return max(1, min(TOKENS_AT_ONCE, _LOGITS_AT_ONCE // model.vocabulary_size))


@torch.inference_mode()
def score_rows(model: CausalModel, rows: Sequence[Sequence[int]]) -> list[FloatArray]:
    """Log-likelihood of every token of each row but its first; rows of like length go through the model together."""
    scores: list[FloatArray] = [np.zeros(0)] * len(rows)
    limit = TOKENS_AT_ONCE if model.feeding is Feeding.PIECES else logit_tokens(model)
    for places in grouped([len(row) for row in rows], limit):
        if len(rows[places[0]]) > 1:
            found = _scores_of(model, _filled([rows[place] for place in places]))
            for place, values in zip(places, found, strict=True):
                scores[place] = values[: max(0, len(rows[place]) - 1)]
    return scores


@torch.inference_mode()
def score_continuations(model: CausalModel, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
    """As `ModelInterface.score_continuations`: a context with several continuations is read once."""
    places_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, one in enumerate(continuations):
        places_of[tuple(one.context)].append(place)
    scores: dict[int, ContinuationScore] = {}
    alone = [places[0] for places in places_of.values() if len(places) == 1]
    lengths = [len(continuations[place].context) + len(continuations[place].tokens) - 1 for place in alone]
    for batch in grouped(lengths, TOKENS_AT_ONCE):
        chosen = [alone[index] for index in batch]
        scores |= zip(chosen, _score_whole(model, [continuations[place] for place in chosen]), strict=True)
    shared: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for context, places in places_of.items():
        if len(places) > 1:
            shared[len(context)].append(context)
    for length, contexts in sorted(shared.items()):
        costs = [
            max(length, _logit_cost(model, [continuations[place] for place in places_of[one]])) for one in contexts
        ]
        for batch in grouped(costs, TOKENS_AT_ONCE):
            chosen = [place for index in batch for place in places_of[contexts[index]]]
            scores |= zip(chosen, _score_shared(model, [continuations[place] for place in chosen]), strict=True)
    return [scores[place] for place in range(len(continuations))]


def _logit_cost(model: CausalModel, continuations: Sequence[Continuation]) -> int:
    """Tokens of a forward pass that the continuations of one context stand for, by the room their logits take."""
    tokens = len(continuations) * max(len(one.tokens) for one in continuations)
    return tokens * TOKENS_AT_ONCE // logit_tokens(model)


def _score_whole(model: CausalModel, batch: Sequence[Continuation]) -> list[ContinuationScore]:
    """Contexts that nothing else follows: rows of context and continuation but its last token."""
    rows = [[*one.context, *one.tokens[:-1]] for one in batch]
    width = max(map(len, rows))
    first = min(len(one.context) for one in batch) - 1
    if len(batch) > 1 and len(batch) * (width - first) > logit_tokens(model):
        half = len(batch) // 2
        return _score_whole(model, batch[:half]) + _score_whole(model, batch[half:])
    logits = RowReader(model).read_all(_filled(rows), keep=width - first)
    starts = [len(one.context) - 1 - first for one in batch]
    return [
        _judged(table[start : start + len(one.tokens)], one)
        for table, start, one in zip(logits, starts, batch, strict=True)
    ]


def _score_shared(model: CausalModel, batch: Sequence[Continuation]) -> list[ContinuationScore]:
    """Contexts of one length are read once; copies of what the model remembers of them go on with each continuation."""
    contexts = list(dict.fromkeys(tuple(one.context) for one in batch))
    owners = [contexts.index(tuple(one.context)) for one in batch]
    reader = RowReader(model)
    logits = reader.read(torch.tensor(contexts))[owners].unsqueeze(1)
    if max(len(one.tokens) for one in batch) > 1:
        reader.select(owners)
        going_on = reader.read_all(_filled([one.tokens[:-1] or one.tokens for one in batch]))
        logits = torch.cat([logits, going_on], dim=1)
    return [_judged(table[: len(one.tokens)], one) for table, one in zip(logits, batch, strict=True)]


def _judged(logits: Tensor, one: Continuation) -> ContinuationScore:
    """The score of a continuation from the logits [its tokens, vocabulary] that predict it."""
    targets = torch.tensor(one.tokens, device=logits.device)
    likelihoods = logits.float().log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1))
    return ContinuationScore(likelihoods.double().sum().item(), bool((logits.argmax(dim=-1) == targets).all()))


def _scores_of(model: CausalModel, tokens: Tensor) -> list[FloatArray]:
    """Log-likelihoods of `tokens` [rows, time] but the first ones, piece by piece in time where that is possible."""
    rows, time = tokens.shape
    step = max(1, logit_tokens(model) // rows) if model.feeding is Feeding.PIECES else time
    reader = RowReader(model)
    found = []
    for start in range(0, time - 1, step):
        stop = min(start + step, time - 1)
        logits = reader.read_all(tokens[:, start:stop]).float()
        targets = tokens[:, start + 1 : stop + 1, None].to(logits.device)
        found.append(logits.log_softmax(dim=-1).gather(-1, targets).squeeze(-1).double().cpu())
    return list(torch.cat(found, dim=1).numpy())


def _filled(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows [rows, longest]; the last token of a shorter one is repeated, where nothing looks."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[row[-1] if row else 0] * (width - len(row))] for row in rows])
