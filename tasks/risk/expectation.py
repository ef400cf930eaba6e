"""The model at single values: its expectation in closed form, and what one figure changes with the rest at their means.

Every part is independent and enters the cost as a factor or a term, so the mean cost is the cost at the means, with two
provisos: the mean of 1/mfu_ratio stands for the MFU, and interruptions enter by Daly's expected time, which counts a
last, shorter segment as a share of a whole one and takes an uncertain rate at its mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.risk.checkpoint_interval import expected_hours
from tasks.risk.distributions import Distribution, Fixed
from tasks.risk.model import RiskModel

#: Names of the figures that are no line, phase or event.
MFU, PRICE, RATE = "mfu", "price", "interruption rate"


def figures(model: RiskModel) -> dict[str, Distribution]:
    """Every figure of the model with its distribution, by the name its draws have; events' happening is not here."""
    found: dict[str, Distribution] = {MFU: model.mfu_ratio, PRICE: model.price_ratio}
    if model.interruptions is not None:
        found[RATE] = model.interruptions.per_hour
    found.update({f"phase/{phase.name}": phase.hours for phase in (*model.preparation, *model.wrap_up)})
    found.update({f"line/{line.name}": line.usd for line in model.lines})
    for event in model.events:
        found[f"event/{event.name}/extra"] = event.extra_training
        found[f"event/{event.name}/delay"] = event.delay_hours
        found[f"event/{event.name}/usd"] = event.usd
    return found


def uncertain_figures(model: RiskModel) -> dict[str, Distribution]:
    """Those of the figures that are not fixed."""
    return {name: value for name, value in figures(model).items() if not isinstance(value, Fixed)}


def mean_figures(model: RiskModel) -> dict[str, float]:
    """The mean of every figure, the harmonic one of the MFU, and each event's probability as `event/<name>`."""
    means = {name: value.mean for name, value in figures(model).items()}
    means[MFU] = 1 / model.mfu_ratio.mean_reciprocal()
    means.update({f"event/{event.name}": event.probability for event in model.events})
    return means


def cost_at(model: RiskModel, values: Mapping[str, float]) -> float:
    """Cost, USD, where every figure has the value given; an event's happening is 1, 0 or a share."""
    hours = _compute_hours(model, values) * model.paid_usd_per_hour * values[PRICE]
    lines = sum(values[f"line/{line.name}"] for line in model.lines)
    events = sum(values[f"event/{e.name}"] * values[f"event/{e.name}/usd"] for e in model.events)
    return hours + lines + events


def finish_at(model: RiskModel, values: Mapping[str, float]) -> float:
    """Hours from the project's begin to its end, where every figure has the value given."""
    phases = sum(values[f"phase/{phase.name}"] for phase in (*model.preparation, *model.wrap_up))
    delays = sum(values[f"event/{e.name}"] * values[f"event/{e.name}/delay"] for e in model.events)
    compute = _compute_hours(model, values)
    waits = 0.0
    if model.interruptions is not None:
        # Interruptions come while hours are paid for, so many of them on average as hours times their rate.
        waits = compute * values[RATE] * model.interruptions.wait_hours
    return phases + delays + compute + waits


def expected_cost_usd(model: RiskModel) -> float:
    """Mean cost in closed form, within the provisos above."""
    return cost_at(model, mean_figures(model))


def expected_finish_hours(model: RiskModel) -> float:
    """Mean time from begin to end in closed form, within the provisos above."""
    return finish_at(model, mean_figures(model))


def _compute_hours(model: RiskModel, values: Mapping[str, float]) -> float:
    extra = sum(values[f"event/{e.name}"] * values[f"event/{e.name}/extra"] for e in model.events)
    work = model.planned_training_hours / values[MFU] * (1 + extra)
    settings = model.interruptions
    if settings is None:
        return work
    rate = values[RATE]
    return expected_hours(
        work,
        settings.checkpoint_interval_hours,
        settings.checkpoint_write_hours,
        settings.restart_hours,
        1 / rate if rate else float("inf"),
    )
