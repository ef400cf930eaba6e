"""What a measure against a risk is worth: the same draws with and without it.

A measure is a changed model, with its own price as one more line. What share of a risk remains under it is the
caller's to say; zero, the default, makes the value an upper bound: no measure against that risk is worth more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import ndtri

from infra.errors import ConfigurationError
from tasks.risk.checkpoint_interval import exact_interval
from tasks.risk.distributions import Distribution, Fixed, Floats, Lognormal, scaled
from tasks.risk.model import CostLine, Interruptions, RiskEvent, RiskModel
from tasks.risk.result import Chance
from tasks.risk.simulation import draw_blocks, join_blocks


class Mitigation(BaseModel):
    """A measure: its name and the model under it, its own price included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model: RiskModel


class MitigationValue(BaseModel):
    """What a measure saves; negative where it costs more than it saves.

    saved_usd: mean cost without it minus with it, on common random numbers; standard_error: of that difference.
    saved_p95_usd: the same for the 95th percentiles, the money to hold ready. saved_hours: mean finish.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    saved_usd: float
    standard_error: float
    saved_p95_usd: float
    saved_hours: float
    budgets: tuple[Chance, ...]  # with the measure


def values_of(
    model: RiskModel,
    mitigations: Sequence[Mitigation],
    draws: int = 50_000,
    seed: int = 0,
    *,
    budgets_usd: Sequence[float] = (),
) -> tuple[MitigationValue, ...]:
    """Each measure alone against the model, the most valuable first."""
    cost, finish = _outcomes(model, draws, seed)
    found = []
    for mitigation in mitigations:
        new_cost, new_finish = _outcomes(mitigation.model, draws, seed)
        saved = cost - new_cost
        found.append(
            MitigationValue(
                name=mitigation.name,
                saved_usd=float(np.mean(saved)),
                standard_error=float(np.std(saved, ddof=1)) / math.sqrt(draws),
                saved_p95_usd=float(np.quantile(cost, 0.95) - np.quantile(new_cost, 0.95)),
                saved_hours=float(np.mean(finish - new_finish)),
                budgets=tuple(Chance.within(new_cost, limit) for limit in budgets_usd),
            )
        )
    return tuple(sorted(found, key=lambda value: (-value.saved_usd, value.name)))


def _outcomes(model: RiskModel, draws: int, seed: int) -> tuple[Floats, Floats]:
    drawn = join_blocks(list(draw_blocks(model, draws, seed)))
    return drawn.cost_usd, drawn.finish_hours


def best_interval(model: RiskModel, usd: float = 0.0) -> Mitigation:
    """Checkpoints as often as is best at the mean interruption rate."""
    settings = _interruptions(model)
    best = exact_interval(settings.checkpoint_write_hours, 1 / settings.per_hour.mean)
    changed = settings.model_copy(update={"checkpoint_interval_hours": best})
    return _measure("best checkpoint interval", model, usd, {"interruptions": changed})


def robust_checkpointing(
    model: RiskModel, event: str = "training failure", *, residual: float = 0.0, usd: float = 0.0
) -> Mitigation:
    """A failed training goes on from a good checkpoint: `residual` of its extra training time remains."""
    failure = _event(model, event)
    changed = failure.model_copy(update={"extra_training": _times(failure.extra_training, residual)})
    return _measure("robust checkpointing", model, usd, {"events": _with(model, changed)})


def provider_failover(
    model: RiskModel, event: str = "hardware issue", *, residual: float = 0.0, usd: float = 0.0
) -> Mitigation:
    """Another provider stands ready: `residual` of the delay, of the switching cost and of waits for spot remains."""
    issue = _event(model, event)
    changed = issue.model_copy(
        update={"delay_hours": _times(issue.delay_hours, residual), "usd": _times(issue.usd, residual)}
    )
    updates: dict[str, object] = {"events": _with(model, changed)}
    if model.interruptions is not None:
        waits = {"wait_hours": model.interruptions.wait_hours * residual}
        updates["interruptions"] = model.interruptions.model_copy(update=waits)
    return _measure("provider failover", model, usd, updates)


def without_spot(
    model: RiskModel, usd_per_hour: float, *, discount: float = 0.0, price_ratio: Distribution | None = None
) -> Mitigation:
    """On-demand or (with a discount) reserved instances, which are not taken away.

    price_ratio: how far that price may move; left out, as far as the spot price.
    """
    _interruptions(model)
    name = "reserved instead of spot" if discount else "on-demand instead of spot"
    updates = {"usd_per_hour": usd_per_hour, "discount": discount, "interruptions": None}
    return _measure(name, model, 0.0, {**updates, "price_ratio": price_ratio or model.price_ratio})


def data_validation(
    model: RiskModel, event: str = "dataset quality", *, residual: float = 0.0, usd: float = 0.0
) -> Mitigation:
    """Data is checked before it is paid to be trained on: `residual` of the probability remains."""
    issue = _event(model, event)
    changed = issue.model_copy(update={"probability": issue.probability * residual})
    return _measure("data validation up front", model, usd, {"events": _with(model, changed)})


def calibration_run(model: RiskModel, relative_error: float, usd: float = 0.0) -> Mitigation:
    """A short run measures the MFU: afterwards it is known within `relative_error` in four cases of five.

    Knowing does not make the training faster: the mean of its hours stays, so that the mean cost falls only by what the
    run costs (rises, that is); what shrinks is the spread, and with it the money to hold ready.
    """
    if relative_error <= 0:
        raise ConfigurationError(
            f"a calibration with a relative error of {relative_error}.", "give the error its measurements show."
        )
    sigma = math.log1p(relative_error) / float(ndtri(0.9))
    # exp(sigma^2 / 2) / median is the mean of 1/ratio, which is kept.
    median = math.exp(sigma * sigma / 2) / model.mfu_ratio.mean_reciprocal()
    return _measure("calibration run", model, usd, {"mfu_ratio": Lognormal(median=median, sigma=sigma)})


def _measure(name: str, model: RiskModel, usd: float, updates: Mapping[str, object]) -> Mitigation:
    lines = (*model.lines, CostLine(name=name, usd=Fixed(value=usd))) if usd else model.lines
    # Made anew rather than copied, so that the changed model is checked like any other.
    fields = {field: getattr(model, field) for field in RiskModel.model_fields}
    return Mitigation(name=name, model=RiskModel(**{**fields, **updates, "lines": lines}))


def _times(distribution: Distribution, residual: float) -> Distribution:
    return scaled(distribution, residual) if residual > 0 else Fixed(value=0.0)


def _with(model: RiskModel, changed: RiskEvent) -> tuple[RiskEvent, ...]:
    return tuple(changed if event.name == changed.name else event for event in model.events)


def _event(model: RiskModel, name: str) -> RiskEvent:
    for event in model.events:
        if event.name == name:
            return event
    known = ", ".join(f"'{event.name}'" for event in model.events) or "none"
    raise ConfigurationError(f"the risk model has no event '{name}'.", f"name one of its events: {known}.")


def _interruptions(model: RiskModel) -> Interruptions:
    if model.interruptions is None or model.interruptions.per_hour.mean == 0:
        raise ConfigurationError(
            "the risk model has no interruptions, so there is nothing to gain on them.",
            "give it spot_interruptions(...), or leave this measure out.",
        )
    return model.interruptions
