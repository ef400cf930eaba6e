"""Text from a model: prefill in segments, then a token at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from model.cache import Cache
from model.errors import GenerationError
from model.language_model import HybridLM

SEGMENT_TOKENS = 2048


class SamplingConfig(BaseModel):
    """How the next token is chosen from the model's distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0, description="Divides the logits; 0 takes the likeliest token.")
    top_k: int | None = Field(default=None, gt=0, description="Keep only the k likeliest tokens.")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Keep the fewest likeliest tokens whose probabilities reach p."
    )
    seed: int | None = Field(default=None, description="Seed of the draw; None draws differently every time.")


GREEDY = SamplingConfig(temperature=0.0)


def generate(
    model: HybridLM,
    prompts: Tensor | Sequence[int] | Sequence[Sequence[int]],
    maximum_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop_tokens: Collection[int] = (),
    cache: Cache | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, up to and including its first stop token.

    `prompts` are token ids: one sequence, or several of equal length. With a `cache`, they continue it.
    """
    results: list[list[int]] | None = None
    finished: list[bool] = []
    for tokens in stream(model, prompts, maximum_new_tokens, sampling, stop_tokens, cache):
        if results is None:
            results, finished = [[] for _ in tokens], [False] * len(tokens)
        for row, token in enumerate(tokens):
            if not finished[row]:
                results[row].append(token)
                finished[row] = token in stop_tokens
    return results if results is not None else [[] for _ in _as_batch(prompts)]


def stream(
    model: HybridLM,
    prompts: Tensor | Sequence[int] | Sequence[Sequence[int]],
    maximum_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop_tokens: Collection[int] = (),
    cache: Cache | None = None,
) -> Iterator[list[int]]:
    """As `generate`, but yields each step's token of every row as soon as it is known.

    Ends when every row has met a stop token; rows that met theirs earlier go on yielding tokens to be ignored.
    """
    batch = _as_batch(prompts).to(model.embeddings.weight.device)
    cache = model.new_cache() if cache is None else cache
    _check_length(model, cache.length + batch.shape[1] + maximum_new_tokens)
    if maximum_new_tokens <= 0:
        return
    generator = torch.Generator(device=batch.device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    logits = prefill(model, batch, cache)
    finished = torch.zeros(batch.shape[0], dtype=torch.bool)
    for step in range(maximum_new_tokens):
        chosen = sample(logits, sampling, generator)
        tokens: list[int] = chosen.tolist()
        yield tokens
        finished |= torch.tensor([token in stop_tokens for token in tokens])
        if bool(finished.all()) or step + 1 == maximum_new_tokens:
            return
        logits = _advance(model, chosen.unsqueeze(1), cache)


def prefill(model: HybridLM, tokens: Tensor, cache: Cache, segment_tokens: int = SEGMENT_TOKENS) -> Tensor:
    """Read `tokens` `[batch, time]` into `cache` segment by segment, so that memory beyond the cache is constant.

    Returns the logits after the last token, `[batch, vocabulary]`.
    """
    if tokens.shape[1] == 0:
        raise GenerationError("an empty prompt: give at least one token, such as a document separator")
    logits: Tensor | None = None
    for segment in tokens.split(segment_tokens, dim=1):
        logits = _advance(model, segment, cache)
    assert logits is not None
    return logits


def sample(logits: Tensor, sampling: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """A token for each row of `logits` `[batch, vocabulary]`."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None:
        logits = _keep_top_p(logits, sampling.top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)


def _keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751); the likeliest token always stays."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    dropped = probabilities.cumsum(dim=-1) - probabilities >= top_p
    return logits.masked_fill(dropped.scatter(-1, order, dropped), float("-inf"))


@torch.no_grad()
def _advance(model: HybridLM, tokens: Tensor, cache: Cache) -> Tensor:
    logits: Tensor = model(tokens, cache=cache, logits_for="last")
    return logits[:, -1]


def _as_batch(prompts: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """Prompts as `[batch, time]`."""
    if isinstance(prompts, Tensor):
        batch = prompts
    else:
        lengths = {len(row) for row in prompts if isinstance(row, Sequence)}
        if len(lengths) > 1:
            raise GenerationError(
                f"prompts of different lengths ({', '.join(map(str, sorted(lengths)))} tokens): "
                "batches need one length; call generate once for each length"
            )
        batch = torch.tensor(prompts, dtype=torch.long)
    if batch.dim() == 1:
        batch = batch.unsqueeze(0)
    if batch.dim() != 2:
        raise GenerationError(f"prompts have {batch.dim()} dimensions: give [time] or [batch, time] token ids")
    return batch


def _check_length(model: HybridLM, length: int) -> None:
    limit = model.config.maximum_context
    if length > limit:
        raise GenerationError(
            f"prompt and new tokens make {length}, over the model's maximum_context of {limit}: "
            "shorten the prompt or lower maximum_new_tokens"
        )
