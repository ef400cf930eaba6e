"""The simulation: all draws at once, in blocks that bound the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from infra.errors import ConfigurationError
from tasks.risk.distributions import Distribution, Fixed, Floats
from tasks.risk.interruptions import Interrupted, draw_interrupted
from tasks.risk.model import RiskEvent, RiskModel, Stage
from tasks.risk.result import Chance, RiskResult, StepFinish, Summary
from tasks.risk.streams import Streams

BLOCK_DRAWS = 1 << 15
_LEAST_DRAWS = 2
#: Interruption rates above this quantile are not looked at when a model is checked.
_NEARLY_ALWAYS = 1 - 1e-7
#: Attempts a segment may need on average at that rate: more, and the simulation itself would not end.
_MOST_ATTEMPTS = 1000.0


@dataclass(frozen=True)
class Block:
    """Some draws, [draws] each; hours and USD. inputs: every uncertain figure that was drawn, by its name."""

    inputs: dict[str, Floats]
    cost_usd: Floats
    finish_hours: Floats
    compute_hours: Floats
    interruptions: Floats
    lost_hours: Floats
    step_finish_hours: dict[str, Floats]
    parts_usd: dict[str, Floats] = field(repr=False)


@dataclass(frozen=True)
class _Training:
    compute_hours: Floats
    lost_hours: Floats
    interruptions: Floats
    stage_elapsed_hours: dict[str, Floats]  # from the training's start to each stage's end: paid hours, waiting, delays


def simulate(
    model: RiskModel,
    draws: int = 100_000,
    seed: int = 0,
    *,
    budgets_usd: Sequence[float] = (),
    deadlines_hours: Sequence[float] = (),
    block_draws: int = BLOCK_DRAWS,
) -> RiskResult:
    """Simulate the project `draws` times; the same model, draws and seed give the same result to the last bit.

    Raises ConfigurationError for fewer than two draws and for a checkpoint interval that never gets done.
    """
    # What went into the draws is not looked at here; without it they take half the memory.
    blocks = [replace(block, inputs={}) for block in draw_blocks(model, draws, seed, block_draws=block_draws)]
    drawn = join_blocks(blocks)
    return RiskResult(
        model=model,
        draws=draws,
        seed=seed,
        cost_usd=Summary.of(drawn.cost_usd),
        finish_hours=Summary.of(drawn.finish_hours),
        compute_hours=Summary.of(drawn.compute_hours),
        interruptions=Summary.of(drawn.interruptions),
        lost_hours=Summary.of(drawn.lost_hours),
        mean_parts_usd={name: float(np.mean(values)) for name, values in drawn.parts_usd.items()},
        steps=_steps(model, drawn),
        budgets=tuple(Chance.within(drawn.cost_usd, limit) for limit in budgets_usd),
        deadlines=tuple(Chance.within(drawn.finish_hours, limit) for limit in deadlines_hours),
    )  # fmt: skip


def draw_blocks(model: RiskModel, draws: int, seed: int, *, block_draws: int = BLOCK_DRAWS) -> Iterator[Block]:
    """The draws in their order, `block_draws` at a time; the size of the blocks changes nothing about them."""
    if draws < _LEAST_DRAWS:
        raise ConfigurationError(f"{draws} draws have no distribution.", "simulate at least 2; 100,000 take seconds.")
    _check_feasible(model)
    streams = Streams(seed)
    for start in range(0, draws, block_draws):
        yield _draw_block(model, streams, min(block_draws, draws - start))


def join_blocks(blocks: Sequence[Block]) -> Block:
    """One block of all draws."""

    def joined(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return Block(
        inputs=joined([block.inputs for block in blocks]),
        cost_usd=np.concatenate([block.cost_usd for block in blocks]),
        finish_hours=np.concatenate([block.finish_hours for block in blocks]),
        compute_hours=np.concatenate([block.compute_hours for block in blocks]),
        interruptions=np.concatenate([block.interruptions for block in blocks]),
        lost_hours=np.concatenate([block.lost_hours for block in blocks]),
        step_finish_hours=joined([block.step_finish_hours for block in blocks]),
        parts_usd=joined([block.parts_usd for block in blocks]),
    )


def _steps(model: RiskModel, drawn: Block) -> tuple[StepFinish, ...]:
    kinds: dict[str, Literal["preparation", "training", "wrap-up"]] = dict.fromkeys(
        (phase.name for phase in model.preparation), "preparation"
    )
    kinds.update(dict.fromkeys((stage.name for stage in model.stages), "training"))
    kinds.update(dict.fromkeys((phase.name for phase in model.wrap_up), "wrap-up"))
    finishes = drawn.step_finish_hours
    return tuple(
        StepFinish(name=name, kind=kind, finish_hours=Summary.of(finishes[name])) for name, kind in kinds.items()
    )


class _Inputs:
    """Draws figures by name and remembers the uncertain ones."""

    def __init__(self, streams: Streams, draws: int) -> None:
        self.drawn: dict[str, Floats] = {}
        self._streams = streams
        self._draws = draws

    def value(self, name: str, distribution: Distribution) -> Floats:
        if isinstance(distribution, Fixed):
            return np.full(self._draws, distribution.value)
        self.drawn[name] = distribution.quantile(self._streams.uniform(name, self._draws))
        return self.drawn[name]

    def happens(self, event: RiskEvent) -> Floats:
        """1 where the event happens, else 0."""
        luck = self._streams.uniform(f"event/{event.name}", self._draws)
        happens = (luck < event.probability).astype(np.float64)
        if 0 < event.probability < 1:
            self.drawn[f"event/{event.name}"] = happens
        return happens


def _draw_block(model: RiskModel, streams: Streams, draws: int) -> Block:
    inputs = _Inputs(streams, draws)
    happens = {event.name: inputs.happens(event) for event in model.events}
    extra = {e.name: happens[e.name] * inputs.value(f"event/{e.name}/extra", e.extra_training) for e in model.events}
    delay = {e.name: happens[e.name] * inputs.value(f"event/{e.name}/delay", e.delay_hours) for e in model.events}
    slowdown = 1 / inputs.value("mfu", model.mfu_ratio)
    longer = slowdown * (1 + sum(extra.values(), np.zeros(draws)))
    training = _train(model, inputs, streams, longer, sum(delay.values(), np.zeros(draws)))
    hourly_usd = model.paid_usd_per_hour * inputs.value("price", model.price_ratio)
    finishes = _finishes(model, inputs, training.stage_elapsed_hours, draws)
    base_hours = model.planned_training_hours * slowdown
    parts = {"training": base_hours * hourly_usd}
    if model.interruptions is not None:
        parts["interruptions"] = training.lost_hours * hourly_usd
    parts.update({f"line/{line.name}": inputs.value(f"line/{line.name}", line.usd) for line in model.lines})
    for event in model.events:
        own = happens[event.name] * inputs.value(f"event/{event.name}/usd", event.usd)
        parts[f"event/{event.name}"] = own + extra[event.name] * base_hours * hourly_usd
    return Block(
        inputs=inputs.drawn,
        cost_usd=_total(list(parts.values()), draws),
        finish_hours=list(finishes.values())[-1],
        compute_hours=training.compute_hours,
        interruptions=training.interruptions,
        lost_hours=training.lost_hours,
        step_finish_hours=finishes,
        parts_usd=parts,
    )


def _finishes(model: RiskModel, inputs: _Inputs, stages: dict[str, Floats], draws: int) -> dict[str, Floats]:
    """When each phase and stage ends, one after another; `stages` count from the first stage's start."""
    now = np.zeros(draws)
    found: dict[str, Floats] = {}
    for phase in model.preparation:
        now = found[phase.name] = now + inputs.value(f"phase/{phase.name}", phase.hours)
    found.update({name: now + elapsed for name, elapsed in stages.items()})
    now = list(found.values())[-1]
    for phase in model.wrap_up:
        now = found[phase.name] = now + inputs.value(f"phase/{phase.name}", phase.hours)
    return found


def _total(values: Sequence[Floats], draws: int) -> Floats:
    return sum(values, np.zeros(draws))


def _train(model: RiskModel, inputs: _Inputs, streams: Streams, longer: Floats, delays: Floats) -> _Training:
    """Stage after stage; delays [draws] fall on the stages in proportion to their hours."""
    compute, lost, count, elapsed = (np.zeros_like(longer) for _ in range(4))
    ends: dict[str, Floats] = {}
    settings = model.interruptions
    rates = np.zeros_like(longer) if settings is None else inputs.value("interruption rate", settings.per_hour)
    for stage in model.stages:
        work = stage.hours * longer
        done = _work(work, rates, model, stage, streams)
        compute = compute + done.paid_hours
        lost = lost + (done.paid_hours - work)
        count = count + done.count
        elapsed = elapsed + done.paid_hours + done.wait_hours + delays * (stage.hours / model.planned_training_hours)
        ends[stage.name] = elapsed
    return _Training(compute, lost, count, ends)


def _work(work: Floats, rates: Floats, model: RiskModel, stage: Stage, streams: Streams) -> Interrupted:
    if model.interruptions is None:
        return Interrupted(work, np.zeros_like(work), np.zeros_like(work))
    return draw_interrupted(work, rates, model.interruptions, streams, f"interruptions/{stage.name}")


def _check_feasible(model: RiskModel) -> None:
    """Refuse a checkpoint interval that is hardly ever survived."""
    settings = model.interruptions
    if settings is None:
        return
    segment = settings.checkpoint_interval_hours + settings.checkpoint_write_hours + settings.restart_hours
    rate = float(settings.per_hour.quantile(np.array([_NEARLY_ALWAYS]))[0])
    if rate * segment > math.log(_MOST_ATTEMPTS):
        raise ConfigurationError(
            f"interruptions: up to {rate:.3g} an hour, and {segment:.3g} hours from a restart to the next checkpoint; "
            f"fewer than one attempt in {_MOST_ATTEMPTS:,.0f} would get there.",
            "shorten interruptions.checkpoint_interval_hours (exact_interval tells the best one).",
        )
