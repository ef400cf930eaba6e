"""How the next token is chosen: filters over the model's distribution, and draws that depend on the row alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from model.errors import GenerationError

_HIDDEN = float("-inf")
_COLDEST = 1e-6
_MASK = (1 << 64) - 1


class SamplingConfig(BaseModel):
    """How the next token is chosen from the model's distribution.

    Applied in this order, which is transformers': repetition penalty, temperature, top-k, top-p, min-p; each looks
    at what the one before it kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0, description="Divides the logits; 0 takes the likeliest token.")
    top_k: int | None = Field(default=None, gt=0, description="Keep only the k likeliest tokens.")
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="Keep the fewest likeliest tokens whose probabilities reach p."
    )
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="Keep tokens at least this share as likely as the likeliest."
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="Over 1 makes every token that is in the prompt or was written less likely."
    )
    seed: int | None = Field(default=None, description="Seed of the row's draws; None draws differently every time.")

    @property
    def is_filtered(self) -> bool:
        """Whether tokens are ruled out."""
        return self.top_k is not None or self.top_p is not None or bool(self.min_p)


GREEDY = SamplingConfig(temperature=0.0)


def sample(
    logits: Tensor,
    sampling: SamplingConfig | Sequence[SamplingConfig],
    draws: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """A token for each row of `logits` `[batch, vocabulary]`; of equally likely ones the lowest, when greedy.

    `sampling` is for all rows or one a row. `draws` `[batch]`, uniform in 0 … 1 (1 excluded), decide the tokens:
    the same logits and draw give the same token in any batch. They are drawn anew when left out. `seen`
    `[batch, vocabulary]` marks the tokens that repetition penalties are for.
    """
    configs = [sampling] * len(logits) if isinstance(sampling, SamplingConfig) else list(sampling)
    logits = logits.float()
    if not bool(logits.amax(dim=-1).isfinite().all()):
        raise GenerationError("the model's output is not finite: its weights are damaged")
    if seen is not None and any(config.repetition_penalty != 1 for config in configs):
        logits = penalise_repetition(logits, seen, _column([config.repetition_penalty for config in configs], logits))
    chosen = logits.argmax(dim=-1)
    warm = [row for row, config in enumerate(configs) if config.temperature > 0]
    if warm:
        if draws is None:
            draws = torch.rand(len(logits), dtype=torch.float64, device=logits.device)
        index = torch.tensor(warm, device=logits.device)
        kept = filtered(logits[index], [configs[row] for row in warm])
        chosen[index] = _draw(kept, draws.to(logits.device)[index])
    return chosen


def filtered(logits: Tensor, sampling: Sequence[SamplingConfig]) -> Tensor:
    """`logits` `[batch, vocabulary]` less their largest, over the temperature; minus infinity rules a token out."""
    # From the largest down, and not colder than float32 can hold: nothing overflows then.
    temperature = _column([config.temperature for config in sampling], logits).clamp_min(_COLDEST)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    narrow = [row for row, config in enumerate(sampling) if config.is_filtered]
    if not narrow:
        return logits
    size = logits.shape[-1]
    chosen = [sampling[row] for row in narrow]
    index = torch.tensor(narrow, device=logits.device)
    ranked = _Ranked(logits[index])
    ranked.keep_top_k(_column([config.top_k or size for config in chosen], logits))
    ranked.keep_top_p(_column([1.0 if config.top_p is None else config.top_p for config in chosen], logits))
    ranked.keep_min_p(_column([config.min_p or 0.0 for config in chosen], logits))
    result = logits.clone()
    result[index] = ranked.in_vocabulary_order()
    return result


class _Ranked:
    """Logits from the likeliest to the least likely; equal ones by token id, so that results are deterministic."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.order = logits.sort(dim=-1, descending=True, stable=True)

    def keep_top_k(self, k: Tensor) -> None:
        """Exactly `k` tokens (Fan et al. 2018, arXiv:1805.04833)."""
        ranks = torch.arange(self.logits.shape[-1], device=self.logits.device)
        self.logits = self.logits.masked_fill(ranks >= k, _HIDDEN)

    def keep_top_p(self, p: Tensor) -> None:
        """The fewest whose probabilities reach `p` (nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751)."""
        probabilities = self.logits.softmax(dim=-1, dtype=torch.float64)
        before = probabilities.cumsum(dim=-1) - probabilities
        # Rounding may put the sum before a last, tiny token at one.
        self.logits = self.logits.masked_fill((before >= p) & (p < 1), _HIDDEN)

    def keep_min_p(self, p: Tensor) -> None:
        """Those at least `p` times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082)."""
        self.logits = self.logits.masked_fill(self.logits < self.logits[:, :1] + p.log(), _HIDDEN)

    def in_vocabulary_order(self) -> Tensor:
        return torch.empty_like(self.logits).scatter_(-1, self.order, self.logits)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Positive logits of `seen` tokens divided by `penalty` `[batch, 1]`, negative ones multiplied (CTRL,
    Keskar et al. 2019, arXiv:1909.05858, section 4.1, as transformers has it)."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def uniform(seed: int, position: int) -> float:
    """The draw of a row's `position`-th new token: a function of both alone, so that rows need no generator state.

    SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), jumped to `position`; 40 bits of the result.
    """
    state = _mixed(seed & _MASK) + (position + 1) * 0x9E3779B97F4A7C15
    return (_mixed(state & _MASK) >> 24) * 2.0**-40


def _mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """Inverse transform sampling over the vocabulary in order; hidden tokens have no width and are never hit."""
    cumulated = logits.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    return torch.searchsorted(cumulated, draws.unsqueeze(-1) * cumulated[:, -1:], right=True).squeeze(-1)


def _column(values: Sequence[float], logits: Tensor) -> Tensor:
    """`[batch, 1]` beside `logits`."""
    return torch.tensor(values, dtype=logits.dtype, device=logits.device).unsqueeze(-1)
