"""Mixtures with weights: how much of each source to fetch, so that training can draw its tokens in the shares wanted.

A weight is a source's share of the training tokens. Training takes the shares from `curriculum[].mixture`; here the
same weights become bytes to fetch: the tokens a source owes, divided by the share that filters and deduplication are
expected to leave, times bytes a token. A source with less than it owes is fetched whole and repeated, up to
`maximum_epochs`: four passes over the same text are worth nearly as much as new text, more are not (Muennighoff et al.
2023, "Scaling Data-Constrained Language Models").

`python -m flows.mixture_plan PROFILE` shows the plan before anything is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import ConfigurationError
from tasks.download.sources import Source


class MixtureConfig(BaseModel):
    """Weights of the sources and what is known about them; the names are the sources'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(gt=0, description="tokens that training will draw, all curriculum stages together")
    weights: dict[str, float] = Field(min_length=1, description="share of the training tokens, in any unit, by source")
    available_tokens: dict[str, int] = Field(
        default={}, description="tokens a source holds, where that is known; others are taken to hold enough"
    )
    maximum_epochs: float = Field(default=4.0, ge=1, description="how often training may go over the same text")
    bytes_per_token: float = Field(default=4.2, gt=0, description="bytes of UTF-8 a token, to turn tokens into bytes")
    kept_share: float = Field(
        default=0.5, gt=0, le=1, description="share of the fetched text that filters and deduplication should leave"
    )
    kept_shares: dict[str, float] = Field(default={}, description="the same for single sources, where it differs")
    notes: dict[str, str] = Field(
        default={}, description="what to know about a source: gated, withdrawn, which data set stands in for it"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MixtureConfig:
        if min(self.weights.values()) <= 0:
            raise ValueError("mixture.weights must be above 0; leave out a source that should not be used")
        for field in ("available_tokens", "kept_shares", "notes"):
            unknown = sorted(set(getattr(self, field)) - set(self.weights))
            if unknown:
                raise ValueError(f"mixture.{field} names {unknown}, which have no weight; correct the names")
        if not all(0 < share <= 1 for share in self.kept_shares.values()):
            raise ValueError("mixture.kept_shares must lie above 0 and not above 1")
        if any(tokens <= 0 for tokens in self.available_tokens.values()):
            raise ValueError("mixture.available_tokens must be above 0")
        return self


@dataclass(frozen=True)
class PlannedSource:
    """What one source contributes. `bytes_wanted` is None where the whole source is needed."""

    source: Source
    share: float
    training_tokens: float
    unique_tokens: float
    bytes_wanted: int | None
    estimated_bytes: int
    note: str

    @property
    def epochs(self) -> float:
        """How often training goes over the source's text."""
        return self.training_tokens / self.unique_tokens


def plan_mixture(sources: Sequence[Source], mixture: MixtureConfig) -> list[PlannedSource]:
    """What to fetch of each source; the shares are those among the sources present.

    Raises ConfigurationError naming a source that would have to be repeated more than `maximum_epochs` times.
    """
    total = sum(mixture.weights[source.name] for source in sources)
    planned = [_planned(source, mixture.weights[source.name] / total, mixture) for source in sources]
    too_small = [entry for entry in planned if entry.epochs > mixture.maximum_epochs * (1 + 1e-9)]
    if too_small:
        lines = "; ".join(
            f"'{entry.source.name}' has about {entry.unique_tokens:,.0f} tokens for {entry.training_tokens:,.0f} "
            f"({entry.epochs:.1f} epochs)"
            for entry in too_small
        )
        raise ConfigurationError(
            f"download.mixture repeats a source more than {mixture.maximum_epochs:g} times: {lines}.",
            "lower its weight or `tokens`, add a source of its kind, or raise `maximum_epochs`.",
        )
    return planned


def with_mixture_targets(sources: Iterable[Source], mixture: MixtureConfig | None) -> tuple[Source, ...]:
    """The sources with `maximum_bytes` set to what the mixture needs of each; unchanged without a mixture."""
    present = tuple(sources)
    if mixture is None:
        return present
    targets = {entry.source.name: entry.bytes_wanted for entry in plan_mixture(present, mixture)}
    return tuple(source.model_copy(update={"maximum_bytes": targets[source.name]}) for source in present)


def plan_rows(planned: Sequence[PlannedSource]) -> list[dict[str, Any]]:
    """The plan as rows of a table, with a last row for the whole."""
    rows: list[dict[str, Any]] = [
        {
            "Source": entry.source.name,
            "Weight": f"{100 * entry.share:.1f}%",
            "Training tokens": f"{entry.training_tokens / 1e9:,.3f} B",
            "Unique tokens": f"{entry.unique_tokens / 1e9:,.3f} B",
            "Epochs": f"{entry.epochs:.2f}",
            "Text to fetch": f"{entry.estimated_bytes / 1e9:,.1f} GB{'' if entry.bytes_wanted else ' (all)'}",
            "Licence": entry.source.licence,
            "From": entry.source.uri,
            "Note": entry.note,
        }
        for entry in planned
    ]
    whole = {
        "Source": "all",
        "Weight": "100.0%",
        "Training tokens": f"{sum(entry.training_tokens for entry in planned) / 1e9:,.3f} B",
        "Unique tokens": f"{sum(entry.unique_tokens for entry in planned) / 1e9:,.3f} B",
        "Text to fetch": f"{sum(entry.estimated_bytes for entry in planned) / 1e9:,.1f} GB",
    }
    return [*rows, {name: whole.get(name, "") for name in rows[0]}]


def training_demand(stages: Iterable[tuple[int, Mapping[str, float] | None]]) -> dict[str, float]:
    """Tokens each source owes to curriculum stages of (tokens, mixture); a stage without a mixture takes any text."""
    demand: dict[str, float] = {}
    for tokens, weights in stages:
        total = sum(weights.values()) if weights else 0.0
        for name, weight in (weights or {}).items():
            demand[name] = demand.get(name, 0.0) + tokens * weight / total
    return demand


def _planned(source: Source, share: float, mixture: MixtureConfig) -> PlannedSource:
    kept = mixture.kept_shares.get(source.name, mixture.kept_share)
    training = share * mixture.tokens
    held = float(mixture.available_tokens.get(source.name, math.inf))
    capped = math.inf if source.maximum_bytes is None else source.maximum_bytes / mixture.bytes_per_token
    usable = min(held, capped) * kept
    unique = min(training, usable)
    fetched = math.ceil(unique / kept * mixture.bytes_per_token)
    if training < usable:
        wanted: int | None = fetched
    else:
        wanted = source.maximum_bytes  # all there is, whatever the estimate says
    notes = [mixture.notes.get(source.name, ""), "" if math.isfinite(min(held, capped)) else "size not known"]
    return PlannedSource(source, share, training, unique, wanted, fetched, "; ".join(filter(None, notes)))
