"""Text from a model in one call: whole, or token by token."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from model.cache import Cache
from model.errors import GenerationCancelled, GenerationError
from model.generation.batch import FinishReason, GenerationRequest, NewToken, RunningBatch, check_request
from model.generation.prefill import Cancel, Progress, Prompts, as_rows
from model.generation.sampling import GREEDY, SamplingConfig
from model.language_model import HybridLM

#: Prompts written side by side; the others wait until one ends.
ROWS_AT_ONCE = 32


@dataclass
class GeneratedSequence:
    """What was written after one prompt."""

    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)  # of each token, in nats, if asked for
    finish: FinishReason = FinishReason.CANCELLED

    def add(self, new: NewToken) -> None:
        """Append a token that `stream` yielded."""
        self.tokens.append(new.token)
        if new.log_probability is not None:
            self.log_probabilities.append(new.log_probability)
        if new.finish is not None:
            self.finish = new.finish


def generate(
    model: HybridLM,
    prompts: Prompts,
    maximum_new_tokens: int | Sequence[int],
    sampling: SamplingConfig | Sequence[SamplingConfig] = GREEDY,
    stop_tokens: Collection[int] = (),
    cache: Cache | None = None,
    stop_sequences: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """The new tokens of each prompt, up to and including its first stop token or sequence; see `stream`."""
    sequences = generate_sequences(
        model, prompts, maximum_new_tokens, sampling, stop_tokens, cache, stop_sequences=stop_sequences
    )
    return [sequence.tokens for sequence in sequences]


def generate_sequences(
    model: HybridLM,
    prompts: Prompts,
    maximum_new_tokens: int | Sequence[int],
    sampling: SamplingConfig | Sequence[SamplingConfig] = GREEDY,
    stop_tokens: Collection[int] = (),
    cache: Cache | None = None,
    *,
    stop_sequences: Sequence[Sequence[int]] = (),
    log_probabilities: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> list[GeneratedSequence]:
    """As `generate`, with each token's log-probability if asked for, and why each row ended.

    When `cancel` ends the work, the rows hold what was written until then.
    """
    results = [GeneratedSequence() for _ in as_rows(prompts, torch.device("cpu"))]
    for new in stream(
        model,
        prompts,
        maximum_new_tokens,
        sampling,
        stop_tokens,
        cache,
        stop_sequences=stop_sequences,
        log_probabilities=log_probabilities,
        progress=progress,
        cancel=cancel,
        rows_at_once=rows_at_once,
    ):
        results[new.row].add(new)
    return results


def stream(
    model: HybridLM,
    prompts: Prompts,
    maximum_new_tokens: int | Sequence[int],
    sampling: SamplingConfig | Sequence[SamplingConfig] = GREEDY,
    stop_tokens: Collection[int] = (),
    cache: Cache | None = None,
    *,
    stop_sequences: Sequence[Sequence[int]] = (),
    log_probabilities: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Iterator[NewToken]:
    """Each row's next token as soon as it is known; `NewToken.row` is the prompt's place.

    `prompts` are token ids: one sequence, or several, of any lengths. `maximum_new_tokens` and `sampling` are for
    all rows, or one a row. A row depends on its prompt and settings alone: two rows with the same prompt and seed
    write the same. At most `rows_at_once` are written side by side; a row that ends makes room for the next.

    With a `cache`, the prompts continue its rows (all at once); in the end it holds everything but each row's last
    token. `progress` is called with the prompt tokens read and to be read. `cancel` is asked before every forward
    pass (`after_seconds` makes a deadline of it); closing the iterator ends the work as well.
    """
    requests = _requests(prompts, maximum_new_tokens, sampling, stop_tokens, stop_sequences)
    return stream_requests(model, requests, cache, log_probabilities, progress, cancel, rows_at_once)


def stream_requests(
    model: HybridLM,
    requests: Sequence[GenerationRequest],
    cache: Cache | None = None,
    log_probabilities: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Iterator[NewToken]:
    """As `stream`, for rows that differ in any setting."""
    places = [place for place, request in enumerate(requests) if request.maximum_new_tokens > 0]
    if cache is not None and places:
        places, rows_at_once = list(range(len(requests))), len(requests)
        cache.bind(model.config, len(requests))
    for place in places:
        held = 0 if cache is None else cache.lengths[place]
        check_request(model, requests[place], held + len(requests[place].prompt))
    if rows_at_once < 1:
        raise GenerationError(f"rows_at_once={rows_at_once}: give at least 1")
    batch = RunningBatch(model, log_probabilities, keep_caches=cache is not None)
    work = _Work(batch, requests, places, rows_at_once, progress, cancel)
    try:
        yield from work.tokens(cache)
    finally:
        if cache is not None and work.numbers:
            batch.leave(batch.rows)
            cache.adopt(Cache.concatenate([batch.take_cache(number) for number in work.numbers]))


def after_seconds(seconds: float) -> Cancel:
    """A deadline, counted from now: true once it has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class _Work:
    """Requests waiting for, and passing through, a running batch."""

    def __init__(
        self,
        batch: RunningBatch,
        requests: Sequence[GenerationRequest],
        places: Sequence[int],
        rows_at_once: int,
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> None:
        self.batch, self.requests, self.rows_at_once = batch, requests, rows_at_once
        self.waiting = list(places)
        self.numbers: dict[int, int] = {}  # rows' numbers in the batch, and their places among the prompts
        self.progress, self.cancel = progress, cancel
        self.read, self.to_read = 0, sum(len(requests[place].prompt) for place in places)

    def tokens(self, cache: Cache | None) -> Iterator[NewToken]:
        while self.waiting or self.batch.rows:
            try:
                self._admit(cache)
            except GenerationCancelled:
                return
            if self.cancel is not None and self.cancel():
                return
            for new in self.batch.step():
                yield new._replace(row=self.numbers[new.row])

    def _admit(self, cache: Cache | None) -> None:
        """Let as many waiting rows join as there is room for."""
        admitted = self.waiting[: self.rows_at_once - len(self.batch.rows)]
        if not admitted:
            return
        requests = [self.requests[place] for place in admitted]
        self.waiting = self.waiting[len(admitted) :]
        numbers = self.batch.join(requests, cache, self._report if self.progress else None, self.cancel)
        self.numbers |= dict(zip(numbers, admitted, strict=True))
        self.read += sum(len(request.prompt) for request in requests)

    def _report(self, read: int, _total: int) -> None:
        assert self.progress is not None
        self.progress(self.read + read, self.to_read)


def _requests(
    prompts: Prompts,
    maximum_new_tokens: int | Sequence[int],
    sampling: SamplingConfig | Sequence[SamplingConfig],
    stop_tokens: Collection[int],
    stop_sequences: Sequence[Sequence[int]],
) -> list[GenerationRequest]:
    rows = [row.tolist() for row in as_rows(prompts, torch.device("cpu"))]
    maxima = [maximum_new_tokens] * len(rows) if isinstance(maximum_new_tokens, int) else list(maximum_new_tokens)
    samplings = [sampling] * len(rows) if isinstance(sampling, SamplingConfig) else list(sampling)
    for name, given in (("maximum_new_tokens", maxima), ("sampling", samplings)):
        if len(given) != len(rows):
            raise GenerationError(
                f"{len(given)} values of {name} for {len(rows)} prompts: give one each, or one for all"
            )
    return [
        GenerationRequest(row, most, choice, stop_tokens, stop_sequences)
        for row, most, choice in zip(rows, maxima, samplings, strict=True)
    ]
