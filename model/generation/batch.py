"""Sequences being written side by side: rows join and leave at any step, and none depends on the others."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

from model.cache import NO_SNAPSHOTS, Cache
from model.errors import GenerationError
from model.generation.prefill import Cancel, Progress, prefill
from model.generation.sampling import GREEDY, SamplingConfig, sample, uniform
from model.language_model import HybridLM


class FinishReason(StrEnum):
    """Why a row ended."""

    STOP = "stop"  # a stop token or a stop sequence
    LENGTH = "length"  # its maximum of new tokens
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class GenerationRequest:
    """One row to write: token ids, how many more, and how to choose and end them."""

    prompt: Sequence[int]
    maximum_new_tokens: int
    sampling: SamplingConfig = GREEDY
    stop_tokens: Collection[int] = ()
    stop_sequences: Sequence[Sequence[int]] = ()
    #: Called with all tokens the row has written, after each; true ends the row.
    stop_when: Callable[[Sequence[int]], bool] | None = None


class NewToken(NamedTuple):
    """One token written."""

    row: int  # the number `join` gave; in `stream` the prompt's place
    token: int
    log_probability: float | None  # natural logarithm, under the model's own distribution; None if not asked for
    finish: FinishReason | None  # on the row's last token


@dataclass
class _Row:
    number: int
    request: GenerationRequest
    seed: int
    tokens: list[int] = field(default_factory=list)
    seen: Tensor | None = None  # [vocabulary], for the repetition penalty

    def finish(self) -> FinishReason | None:
        request = self.request
        if self.tokens[-1] in request.stop_tokens:
            return FinishReason.STOP
        if any(self.tokens[-len(end) :] == list(end) for end in request.stop_sequences):
            return FinishReason.STOP
        if request.stop_when is not None and request.stop_when(self.tokens):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= request.maximum_new_tokens else None


class RunningBatch:
    """Continuous batching (Yu et al. 2022, "Orca"): `join` rows, `step` all by a token, `leave` early.

    Finished rows leave by themselves and cost nothing afterwards. With `keep_caches`, what a row leaves behind
    can be taken with `take_cache`, to continue it or to reuse its prefix.
    """

    def __init__(self, model: HybridLM, log_probabilities: bool = False, keep_caches: bool = False) -> None:
        self.model = model
        self.log_probabilities = log_probabilities
        self.keep_caches = keep_caches
        self._rows: list[_Row] = []
        self._joined = 0
        self._cache: Cache | None = None
        self._logits: Tensor | None = None  # [batch, vocabulary]; None when the last tokens are still to be read
        self._left: dict[int, Cache] = {}

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows being written."""
        return [row.number for row in self._rows]

    def join(
        self,
        requests: Sequence[GenerationRequest],
        cache: Cache | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> list[int]:
        """Read the prompts, behind what `cache` holds if one is given, and add them; returns the rows' numbers.

        Raises GenerationError for requests that do not fit the model, GenerationCancelled when `cancel` says so;
        no row joins then.
        """
        cache = self.model.new_cache(NO_SNAPSHOTS) if cache is None else cache
        held = cache.lengths or [0] * len(requests)
        for request, length in zip(requests, held, strict=False):
            check_request(self.model, request, length + len(request.prompt))
        logits = prefill(self.model, [list(one.prompt) for one in requests], cache, progress=progress, cancel=cancel)
        return self.join_read(requests, cache, logits)

    def join_read(self, requests: Sequence[GenerationRequest], cache: Cache, logits: Tensor) -> list[int]:
        """Add rows whose prompts are in `cache` already, `logits` `[batch, vocabulary]` following them.

        The batch takes the cache over.
        """
        cache.bind(self.model.config, len(requests))
        for request, length in zip(requests, cache.lengths, strict=True):
            check_request(self.model, request, length)
        new = [self._row(request, cache, place) for place, request in enumerate(requests)]
        if self._cache is None:
            self._cache, self._logits = cache, logits
        else:
            # First the tokens that are still to be read: that advances the cache.
            self._logits = torch.cat([self._known(), logits])
            self._cache = Cache.concatenate([self._cache, cache])
        self._rows += new
        return [row.number for row in new]

    def step(self) -> list[NewToken]:
        """Write one token in every row, in the order of `rows`; rows that end with it leave."""
        if not self._rows:
            return []
        logits, self._logits = self._known(), None
        chosen = sample(logits, [row.request.sampling for row in self._rows], self._draws(logits), self._seen(logits))
        tokens: list[int] = chosen.tolist()
        likelihoods = self._likelihoods(logits, chosen)
        written = []
        for row, token, likelihood in zip(self._rows, tokens, likelihoods, strict=True):
            row.tokens.append(token)
            if row.seen is not None:
                row.seen[token] = True
            written.append(NewToken(row.number, token, likelihood, row.finish()))
        self._drop([place for place, new in enumerate(written) if new.finish is not None])
        return written

    def leave(self, numbers: Collection[int]) -> None:
        """End rows now; those that have ended already are passed over."""
        self._drop([place for place, row in enumerate(self._rows) if row.number in numbers])

    def take_cache(self, number: int) -> Cache:
        """The cache of a row that has left: its prompt and all it wrote but the last token. Given out once."""
        if number not in self._left:
            raise GenerationError(f"row {number} left no cache: it is running, was taken, or keep_caches was not set")
        return self._left.pop(number)

    def _row(self, request: GenerationRequest, cache: Cache, place: int) -> _Row:
        seed = request.sampling.seed
        row = _Row(self._joined, request, secrets.randbits(64) if seed is None else seed)
        if request.sampling.repetition_penalty != 1:
            row.seen = torch.zeros(self.model.config.vocabulary_size, dtype=torch.bool)
            row.seen[cache.tokens(place)] = True
        self._joined += 1
        return row

    @torch.no_grad()
    def _known(self) -> Tensor:
        """Logits of every row, the last tokens read."""
        if self._logits is None:
            last = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self.model.embeddings.weight.device)
            self._logits = self.model(last, cache=self._cache, logits_for="last")[:, -1]
        return self._logits

    def _draws(self, logits: Tensor) -> Tensor | None:
        if all(row.request.sampling.temperature == 0 for row in self._rows):
            return None
        draws = [uniform(row.seed, len(row.tokens)) for row in self._rows]
        return torch.tensor(draws, dtype=torch.float64, device=logits.device)

    def _seen(self, logits: Tensor) -> Tensor | None:
        if all(row.seen is None for row in self._rows):
            return None
        none = torch.zeros(logits.shape[-1], dtype=torch.bool)
        return torch.stack([none if row.seen is None else row.seen for row in self._rows]).to(logits.device)

    def _likelihoods(self, logits: Tensor, chosen: Tensor) -> Sequence[float | None]:
        if not self.log_probabilities:
            return [None] * len(self._rows)
        picked = logits.float().log_softmax(dim=-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        values: list[float] = picked.tolist()
        return values

    def _drop(self, places: Collection[int]) -> None:
        """Let rows go, with their part of the cache."""
        if not places or self._cache is None:
            return
        if self.keep_caches:
            alone = len(self._rows) == 1
            for place in places:
                self._left[self._rows[place].number] = self._cache if alone else self._cache.select([place])
        staying = [place for place in range(len(self._rows)) if place not in places]
        self._cache = self._cache.select(staying) if staying else None
        self._logits = None if self._logits is None or not staying else self._logits[staying]
        self._rows = [self._rows[place] for place in staying]


def check_request(model: HybridLM, request: GenerationRequest, length: int) -> None:
    """Refuse a row of `length` tokens, its prompt read, that would outgrow the model."""
    if request.maximum_new_tokens < 1:
        raise GenerationError(f"maximum_new_tokens={request.maximum_new_tokens}: give at least 1")
    limit = model.config.maximum_context
    if length + request.maximum_new_tokens > limit:
        raise GenerationError(
            f"prompt and new tokens make {length + request.maximum_new_tokens}, over the model's maximum_context of "
            f"{limit}: shorten the prompt or lower maximum_new_tokens"
        )
