"""How the next token is chosen: filters over the model's distribution, and draws that depend on the row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from model.errors import GenerationError

_COLDEST = 1e-6
#: Likeliest tokens that are looked at first, and by how much their number grows while they do not suffice.
_HEAD = 256
_GROWTH = 16
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
        draws = draws.to(logits.device)
        if len(warm) == len(configs):
            return _draw(logits, configs, draws)
        chosen[warm] = _draw(logits[warm], [configs[row] for row in warm], draws[warm])
    return chosen


class Candidates(NamedTuple):
    """Tokens that may be drawn, of each row; lowest id first."""

    tokens: Tensor  # [batch, count]
    kept: Tensor  # [batch, count], false for those that a filter ruled out
    weights: Tensor  # [batch, count], probabilities up to a factor; zero where not kept


class Limits(NamedTuple):
    """Filters of each row, `[batch, 1]`; the vocabulary's size, 1 and 0 rule nothing out."""

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    def rows(self, index: Tensor) -> Limits:
        """Those of some rows."""
        return Limits(self.top_k[index], self.top_p[index], self.min_p[index])


def limits(sampling: Sequence[SamplingConfig], logits: Tensor) -> Limits:
    """The filters of `sampling`, one a row of `logits`."""
    size = logits.shape[-1]
    top_k = torch.tensor([min(config.top_k or size, size) for config in sampling], device=logits.device)
    top_p = torch.tensor([config.top_p or 1.0 for config in sampling], dtype=torch.float64, device=logits.device)
    return Limits(
        top_k.unsqueeze(-1), top_p.unsqueeze(-1), _column([config.min_p or 0.0 for config in sampling], logits)
    )


def candidates(logits: Tensor, limits: Limits, count: int) -> tuple[Candidates, Tensor]:
    """Those of the `count` likeliest tokens that pass all filters, and `[batch]`, whether no others do.

    Top-k (Fan et al. 2018, arXiv:1805.04833) keeps exactly k; top-p (Holtzman et al. 2019, arXiv:1904.09751) the
    fewest of these whose probabilities reach p; min-p (Nguyen et al. 2024, arXiv:2407.01082) those at least p times
    as likely as the likeliest. Equal logits rank by token id.
    """
    size = logits.shape[-1]
    largest = logits.amax(dim=-1, keepdim=True)
    tokens = _likeliest(logits, count)
    values = logits.gather(-1, tokens) if count < size else logits
    narrow, nucleus = limits.top_k < size, limits.top_p < 1
    kept = values >= largest + limits.min_p.log()
    weights = (values - largest).exp()
    enough = (limits.top_k <= count) & (narrow | (limits.top_k == count))
    if bool((narrow | nucleus).any()):
        order = values.sort(dim=-1, descending=True, stable=True).indices
        inside = torch.arange(count, device=logits.device) < limits.top_k
        share = weights.gather(-1, order).double() * inside
        # Summed one after the other, so that the count changes nothing.
        reached = share.cumsum(dim=-1)
        goal = limits.top_p * torch.where(narrow, reached[:, -1:], _total(logits, largest, nucleus & ~narrow))
        inside &= (reached - share < goal) | ~nucleus
        enough |= nucleus & ~narrow & (reached[:, -1:] >= goal)
        kept &= torch.zeros_like(kept).scatter_(-1, order, inside)
    return Candidates(tokens, kept, weights * kept), enough.squeeze(-1)


def _total(logits: Tensor, largest: Tensor, wanted: Tensor) -> Tensor:
    """Weights of the whole vocabulary summed, `[batch, 1]`, if any row wants it."""
    if not bool(wanted.any()):
        return torch.zeros_like(largest, dtype=torch.float64)
    return (logits - largest).exp().sum(dim=-1, keepdim=True, dtype=torch.float64)


def _likeliest(logits: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest, ascending; of equal ones the lowest, which `topk` alone does not promise."""
    size = logits.shape[-1]
    if count == size:
        return torch.arange(size, device=logits.device).expand(len(logits), -1)
    values, tokens = logits.topk(count, dim=-1)
    least = values[:, -1:]
    if bool(((logits >= least).sum(dim=-1) == count).all()):
        return tokens.sort(dim=-1).values
    above, level = logits > least, logits == least
    room = count - above.sum(dim=-1, keepdim=True)
    return (above | (level & (level.cumsum(dim=-1) <= room))).nonzero()[:, 1].view(len(logits), count)


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


def _draw(logits: Tensor, sampling: Sequence[SamplingConfig], draws: Tensor) -> Tensor:
    """A token a row, `[batch]`. The head of a vocabulary mostly holds all candidates; looking at the rest is slow."""
    # Not colder than float32 can hold: nothing overflows then.
    logits = logits / _column([config.temperature for config in sampling], logits).clamp_min(_COLDEST)
    filters, size = limits(sampling, logits), logits.shape[-1]
    ranked = [min(config.top_k or 1, size) for config in sampling if config.top_k or (config.top_p or 1) < 1]
    count = min(size, max(_HEAD, *ranked)) if ranked else size
    found, enough = candidates(logits, filters, count)
    chosen = _hit(found, draws)
    rest = torch.arange(len(logits), device=logits.device)
    while count < size and not bool(enough.all()):
        rest = rest[~enough]
        # Rows without filters need everything at once.
        count = min(size, _GROWTH * count) if bool((filters.top_p[rest] < 1).all()) else size
        found, enough = candidates(logits[rest], filters.rows(rest), count)
        chosen[rest] = _hit(found, draws[rest])
    return chosen


def _hit(found: Candidates, draws: Tensor) -> Tensor:
    """Inverse transform sampling over the candidates in order; those not kept have no width and are never hit."""
    cumulated = found.weights.cumsum(dim=-1, dtype=torch.float64)
    places = torch.searchsorted(cumulated, draws.unsqueeze(-1) * cumulated[:, -1:], right=True)
    return found.tokens.gather(-1, places).squeeze(-1)


def _column(values: Sequence[float], logits: Tensor) -> Tensor:
    """`[batch, 1]` beside `logits`."""
    return torch.tensor(values, dtype=logits.dtype, device=logits.device).unsqueeze(-1)
