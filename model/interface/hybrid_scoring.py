"""Likelihoods from a `HybridLM` in batches: of whole rows, and of continuations that share their contexts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from model.cache import NO_SNAPSHOTS, Cache
from model.errors import GenerationError
from model.generation import prefill
from model.interface.contract import Continuation, ContinuationScore, FloatArray
from model.language_model import HybridLM

#: Tokens of one forward pass, padding included; one row at least. More are not faster.
_TOKENS_AT_ONCE = 4096
#: Logits computed at a time, 128 MiB in float32.
_LOGITS_AT_ONCE = 1 << 25


@torch.inference_mode()
def score_rows(model: HybridLM, rows: Sequence[Sequence[int]]) -> list[FloatArray]:
    """Log-likelihood of every token of each row but its first.

    Rows of like length go through the model together, padded on the right, where nothing looks. Longer rows go
    through it in pieces, so that memory does not grow with their logits. Raises GenerationError for a row longer than
    the model's context and the token after it.
    """
    _check_lengths(model, [len(row) - 1 for row in rows])
    scores: list[FloatArray] = [np.zeros(0)] * len(rows)
    for places in grouped([len(row) for row in rows], _TOKENS_AT_ONCE):
        tokens = _padded([rows[place] for place in places], model)
        found = _scores_of(model, tokens)
        for place, values in zip(places, found, strict=True):
            scores[place] = values[: max(0, len(rows[place]) - 1)]
    return scores


@torch.inference_mode()
def score_continuations(model: HybridLM, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
    """As `ModelInterface.score_continuations`: a context with several continuations is read once.

    Raises GenerationError for an empty context or continuation, or where they are together longer than the model's
    context and the token after it.
    """
    if any(not one.context or not one.tokens for one in continuations):
        raise GenerationError("a continuation and its context must have at least one token each")
    _check_lengths(model, [len(one.context) + len(one.tokens) - 1 for one in continuations])
    scores: dict[int, ContinuationScore] = {}
    alone = []
    shared: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(dict)
    for context, places in _by_context(continuations).items():
        if len(places) > 1:
            shared[len(context)][context] = places
        else:
            alone += places
    for places in grouped([len(continuations[place].context) + len(continuations[place].tokens) for place in alone],
                          _TOKENS_AT_ONCE):  # fmt: skip
        chosen = [alone[place] for place in places]
        found = _score_whole(model, [continuations[place] for place in chosen])
        scores |= dict(zip(chosen, found, strict=True))
    for length, contexts in sorted(shared.items()):
        for batch in _batches(contexts, length, continuations):
            flat = [place for places in batch.values() for place in places]
            found = _score_shared(model, batch, continuations)
            scores |= dict(zip(flat, found, strict=True))
    return [scores[place] for place in range(len(continuations))]


def grouped(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Places of rows alike in length, together at most `limit` tokens when padded; a longer row alone."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if group and (len(group) + 1) * lengths[group[0]] > limit:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _by_context(continuations: Sequence[Continuation]) -> dict[tuple[int, ...], list[int]]:
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, one in enumerate(continuations):
        places[tuple(one.context)].append(place)
    return places


def _batches(
    contexts: dict[tuple[int, ...], list[int]], length: int, continuations: Sequence[Continuation]
) -> Iterator[dict[tuple[int, ...], list[int]]]:
    """Contexts of one length in batches: neither they nor their continuations are more than a forward pass takes."""
    batch: dict[tuple[int, ...], list[int]] = {}
    rows = longest = 0
    for context, places in contexts.items():
        tokens = max(len(continuations[place].tokens) for place in places)
        over = max((len(batch) + 1) * length, (rows + len(places)) * max(longest, tokens)) > _TOKENS_AT_ONCE
        if batch and over:
            yield batch
            batch, rows, longest = {}, 0, 0
        batch[context] = places
        rows, longest = rows + len(places), max(longest, tokens)
    if batch:
        yield batch


def _score_whole(model: HybridLM, batch: Sequence[Continuation]) -> list[ContinuationScore]:
    """Contexts that nothing else follows: whole rows, and the head only where a continuation's token is predicted."""
    rows = [[*one.context, *one.tokens[:-1]] for one in batch]
    hidden = model.hidden_states(_padded(rows, model))
    wanted = [
        (place, len(one.context) - 1 + step) for place, one in enumerate(batch) for step in range(len(one.tokens))
    ]
    place, time = torch.tensor(wanted, device=hidden.device).unbind(1)
    return _judged(model, hidden[place, time], [one.tokens for one in batch])


def _states_of_one(model: HybridLM, row: Sequence[int], start: int) -> Tensor:
    """States of a row's tokens from `start` on, [tokens, width]; a long row goes through in pieces."""
    cache = model.new_cache(NO_SNAPSHOTS) if len(row) > _TOKENS_AT_ONCE else None
    states = []
    for first, piece in enumerate(_padded([row], model).split(_TOKENS_AT_ONCE, dim=1)):
        hidden = model.hidden_states(piece, cache=cache)[0]
        states.append(hidden[max(0, start - first * _TOKENS_AT_ONCE) :])
    return torch.cat(states)


def _score_shared(
    model: HybridLM, contexts: dict[tuple[int, ...], list[int]], continuations: Sequence[Continuation]
) -> list[ContinuationScore]:
    """Contexts of one length are read once; copies of what the model remembers of them go on with each continuation."""
    cache = model.new_cache(NO_SNAPSHOTS)
    first = _read(model, list(contexts), cache)
    owners = [row for row, places in enumerate(contexts.values()) for _ in places]
    tokens = [continuations[place].tokens for places in contexts.values() for place in places]
    states = first[owners].unsqueeze(1)  # the state before each continuation's first token
    if max(map(len, tokens)) > 1:
        going_on = model.hidden_states(_padded([row[:-1] or row for row in tokens], model), cache=cache.select(owners))
        states = torch.cat([states, going_on], dim=1)
    wanted = [(row, step) for row, one in enumerate(tokens) for step in range(len(one))]
    row, step = torch.tensor(wanted, device=states.device).unbind(1)
    return _judged(model, states[row, step], tokens)


def _read(model: HybridLM, contexts: Sequence[Sequence[int]], cache: Cache) -> Tensor:
    """The last token's state of each context, [batch, width]; all but that token go through in segments."""
    tokens = torch.tensor(contexts, device=model.embeddings.weight.device)
    if tokens.numel() > _TOKENS_AT_ONCE and tokens.shape[1] > 1:  # one long context
        prefill(model, tokens[:, :-1], cache)
        tokens = tokens[:, -1:]
    return model.hidden_states(tokens, cache=cache, states_for="last")[:, -1]


def _judged(model: HybridLM, states: Tensor, tokens: Sequence[Sequence[int]]) -> list[ContinuationScore]:
    """Scores of continuations from the states [all their tokens, width] that predict them."""
    flat = torch.tensor([token for row in tokens for token in row], device=states.device)
    likelihoods, likeliest = [], []
    at_once = max(1, _LOGITS_AT_ONCE // model.config.vocabulary_size)
    for part, targets in zip(states.split(at_once), flat.split(at_once), strict=True):
        logits = model.lm_head(part).float()
        likelihoods.append(logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).double())
        likeliest.append(logits.argmax(dim=-1) == targets)
    lengths = [len(row) for row in tokens]
    sums = [part.sum().item() for part in torch.cat(likelihoods).split(lengths)]
    greedy = [bool(part.all()) for part in torch.cat(likeliest).split(lengths)]
    return [ContinuationScore(*pair) for pair in zip(sums, greedy, strict=True)]


def _scores_of(model: HybridLM, tokens: Tensor) -> list[FloatArray]:
    """Log-likelihoods of `tokens` [batch, time] but the first ones, piece by piece in time."""
    batch, time = tokens.shape
    cache = model.new_cache(NO_SNAPSHOTS)
    step = max(1, min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // model.config.vocabulary_size) // batch)
    found = [torch.zeros(batch, 0, dtype=torch.float64)]
    for start in range(0, time - 1, step):
        stop = min(start + step, time - 1)
        logits = model(tokens[:, start:stop], cache=cache if stop < time - 1 or start else None).float()
        targets = tokens[:, start + 1 : stop + 1, None]
        found.append(logits.log_softmax(dim=-1).gather(-1, targets).squeeze(-1).double().cpu())
    return list(torch.cat(found, dim=1).numpy())


def _padded(rows: Sequence[Sequence[int]], model: HybridLM) -> Tensor:
    width = max(map(len, rows))
    filled = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=model.embeddings.weight.device)


def _check_lengths(model: HybridLM, lengths: Sequence[int]) -> None:
    limit = model.config.maximum_context
    if (longest := max(lengths, default=0)) > limit:
        raise GenerationError(
            f"a row of {longest} tokens is over the model's maximum_context of {limit}: score it in parts"
        )
