"""lm-eval's model interface over ours: any `ModelInterface` answers the harness's tasks.

What the harness's own `hf` backend does to a request is done here too (tokens of context and continuation split
after encoding them together, cut from the left to the model's context, stop texts, 256 new tokens at most where a
task says nothing), so that the results are the same; how the model is run is not: contexts with several
continuations are read once, prompts in batches of like length, and every batch's answers are journaled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from infra.errors import PipelineError
from model.interface import Continuation, GenerationSettings, ModelInterface
from tasks.evaluation.benchmarks.journal import Journal, Report

#: Tokens of one journaled batch of likelihoods, and prompts of one of generations: what a kill can cost.
BATCH_TOKENS = 16_384
BATCH_PROMPTS = 32
DEFAULT_NEW_TOKENS = 256

Pair = tuple[list[int], list[int]]


class InterfaceLM(TemplateLM):
    """A `ModelInterface` for lm-eval.

    open_documents: put the separator before every prompt. The harness's requests of log-likelihoods keep an empty
    context's separator in any case.
    """

    def __init__(
        self,
        model: ModelInterface,
        journal: Journal | None = None,
        *,
        open_documents: bool = False,
        report: Report = lambda done, of: None,
    ) -> None:
        super().__init__()
        self.model = model
        self._journal = journal if journal is not None else Journal(None)
        self._opening = [model.separator] if open_documents else []
        self._report = report
        self._encoded: dict[str, list[int]] = {}
        self.max_length = model.info().maximum_context

    @property
    def eot_token_id(self) -> int:
        """The separator."""
        return self.model.separator

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; with the separator before them, if documents are to be opened."""
        opening = [] if add_special_tokens is False else self._opening
        known = self._encoded.get(string)
        return [*opening, *(self.model.encode(string) if known is None else known)]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As the harness's, without its own progress bar, and with every text encoded once, all of them together."""
        texts = {text for request in requests for text in _texts_of(*request.args)}
        self._encoded = dict(zip(texts, self.model.encode_batch(list(texts)), strict=True))
        try:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._encoded = {}
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitting(context, continuation) for _, context, continuation in requests]
        return [(float(nats), bool(greedy)) for nats, greedy in self._scores("loglikelihood", pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, in windows of the model's context that share no predicted token."""
        windows: list[Pair] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            rolling = get_rolling_token_windows(
                token_list=self.model.encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [(list(context), list(predicted)) for context, predicted in map(make_disjoint_window, rolling)]
            windows += own
            owners += [owner] * len(own)
        totals: list[list[float]] = [[] for _ in requests]
        for owner, (nats, _) in zip(owners, self._scores("rolling", windows), strict=True):
            totals[owner].append(nats)
        return [math.fsum(parts) for parts in totals]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each prompt, greedily, up to its stop texts.

        Raises PipelineError for a task that samples.
        """
        wanted = [self._generation(request) for request in requests]
        order = sorted(range(len(wanted)), key=lambda place: (-len(wanted[place][0]), wanted[place]))
        texts: dict[int, str] = {}
        for start in range(0, len(order), BATCH_PROMPTS):
            places = order[start : start + BATCH_PROMPTS]
            batch = [wanted[place] for place in places]
            answers = self._journal.answers("generation", batch, lambda batch=batch: self._write(batch))  # type: ignore[misc]
            texts |= dict(zip(places, answers, strict=True))
            self._report(len(texts), len(wanted))
        return [texts[place] for place in range(len(wanted))]

    def _fitting(self, context: list[int], continuation: list[int]) -> Pair:
        """Cut from the left to the model's context and one token more, which is predicted and never read."""
        room = self.max_length + 1
        predicted = continuation[-(room - 1) :]
        whole = (context + predicted)[-room:]
        return whole[: -len(predicted)], predicted

    def _scores(self, kind: str, pairs: Sequence[Pair]) -> list[list[Any]]:
        """`[log-likelihood, greedy]` of each pair; equal ones are asked once."""
        keys = [(tuple(context), tuple(continuation)) for context, continuation in pairs]
        answers: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Any]] = {}
        for batch in _batches(sorted(set(keys), key=lambda key: (-len(key[0]), key))):
            asked = [[list(context), list(continuation)] for context, continuation in batch]
            found = self._journal.answers(kind, asked, lambda asked=asked: self._score(asked))  # type: ignore[misc]
            answers |= dict(zip(batch, found, strict=True))
            self._report(len(answers), len(set(keys)))
        return [answers[key] for key in keys]

    def _score(self, pairs: Sequence[Sequence[list[int]]]) -> list[list[Any]]:
        scores = self.model.score_continuations([Continuation(context, tokens) for context, tokens in pairs])
        if not np.isfinite([score.log_likelihood for score in scores]).all():
            raise PipelineError(
                "the model gave a likelihood that is not finite.", "its weights are damaged: train or export it again."
            )
        return [[score.log_likelihood, score.greedy] for score in scores]

    def _generation(self, request: Instance) -> tuple[list[int], list[str], int]:
        """Tokens of the prompt, stop texts, new tokens at most."""
        prompt, arguments = request.args
        if arguments.get("do_sample") or float(arguments.get("temperature") or 0.0) > 0:
            raise PipelineError(
                "the task wants sampled text, the harness's adapter writes greedily.", "set do_sample: false."
            )
        until = arguments.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        # A model of short context keeps half of it for the prompt.
        limit = min(int(arguments.get("max_gen_toks", DEFAULT_NEW_TOKENS)), self.max_length // 2)
        return self.tok_encode(prompt)[-(self.max_length - limit) :], [stop for stop in stops if stop], limit

    def _write(self, batch: Sequence[tuple[list[int], list[str], int]]) -> list[str]:
        prompts = [tokens or [self.model.separator] for tokens, _, _ in batch]
        settings = [GenerationSettings(maximum_new_tokens=limit, stop_texts=tuple(stops)) for _, stops, limit in batch]
        return [completion.text for completion in self.model.generate(prompts, settings)]


def _texts_of(context: str, continuation: str) -> tuple[str, ...]:
    """What the harness encodes of a request: the whole, and the context without the spaces at its end."""
    return (context + continuation, context.rstrip()) if context else (continuation,)


def _batches(keys: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[list[Any]]:
    """Consecutive pairs of up to BATCH_TOKENS, counted as if nothing were shared; a context is in one batch alone."""
    batch: list[Any] = []
    tokens = 0
    for key in keys:
        size = len(key[0]) + len(key[1])
        if batch and tokens + size > BATCH_TOKENS and key[0] != batch[-1][0]:
            yield batch
            batch, tokens = [], 0
        batch.append(key)
        tokens += size
    if batch:
        yield batch
