"""Every offer as an option: how many instances, how the stages are placed there, how long, for how much.

An offer is rented in whole instances: as many as hold the profile's GPUs, and twice, four times that where instances
are connected and that is faster. On all their GPUs, where every stage's batch divides equally
(`Assumptions.whole_instances`), else on the profile's number, and the rest idle, paid for. A stage that does not fit as
the profile places it, or that the network between machines would slow down, takes the cheapest placement that fits
(`ways_to_fit`, and the network's time beside).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from infra.budget import Offer, PriceCatalog
from model.sizing import TrainingPlacement, WayToFit, gpu_training_memory
from tasks.planning.costs import committed_usd, preemption_overhead, rented_cost
from tasks.planning.durations import Fleet, added_time, network_time, training_hours
from tasks.planning.placement import fitting_ways, memory_row, on_ranks
from tasks.planning.plan import CorpusPlan, Option, StageTime
from tasks.planning.request import PlanRequest
from tasks.training import TrainingStageConfig

_GB = 1e9
#: A share of a stage's time that the network may take before other placements are looked for.
_NETWORK_SHARE = 0.05


@dataclass
class OptionTable:
    """The options of one request. What offers of one kind of machine share is worked out once."""

    request: PlanRequest
    catalog: PriceCatalog
    corpus: CorpusPlan
    _stages: dict[int, tuple[TrainingStageConfig, ...] | None] = field(default_factory=dict)
    _times: dict[tuple[object, ...], _Placed] = field(default_factory=dict)
    _ways: dict[tuple[str, int, float], list[WayToFit]] = field(default_factory=dict)

    def options(self) -> Iterator[Option]:
        """All options on rented machines, in the catalog's order."""
        for offer in self.catalog.offers:
            fastest = math.inf
            for fleet in self._fleets(offer):
                option = self._option(fleet)
                if option.training_hours < fastest:  # more machines that take longer are no option
                    yield option
                    fastest = option.training_hours if option.fits else fastest

    def stages_on(self, ranks: int) -> tuple[TrainingStageConfig, ...] | None:
        """The curriculum on so many ranks; None when some stage's batch cannot be shared so."""
        if ranks not in self._stages:
            placed = [on_ranks(stage, ranks) for stage in self.request.stages]
            self._stages[ranks] = None if None in placed else tuple(stage for stage in placed if stage is not None)
        return self._stages[ranks]

    def _fleets(self, offer: Offer) -> Iterator[Fleet]:
        assumptions, ranks = self.request.assumptions, self.request.ranks
        mfu = assumptions.mfu or offer.default_mfu
        fewest = -(-ranks // offer.gpus)
        times = 1
        while times <= assumptions.largest_fleet:
            instances = fewest * times
            whole = instances * offer.gpus
            if assumptions.whole_instances and whole != ranks and self.stages_on(whole) is not None:
                fleet = Fleet(offer, instances, whole, mfu)
            elif self.stages_on(ranks * times) is not None:
                fleet = Fleet(offer, instances, ranks * times, mfu)
            else:
                return
            if times > 1 and (not fleet.connected or fleet.ranks < fleet.gpus):
                return
            yield fleet
            if fleet.ranks < fleet.gpus:
                return  # more instances would only idle more
            times *= 2

    def _option(self, fleet: Fleet) -> Option:
        placed = self._placed(fleet)
        offer = fleet.offer
        common = {
            "name": option_name(fleet), "offer": offer, "instances": fleet.instances, "gpus": fleet.gpus,
            "ranks": fleet.ranks, "notes": (*self._notes(fleet), *placed.notes),
        }  # fmt: skip
        if not placed.times:
            return Option(**common, fits=False, placed_as="nowhere", stages=(), training_hours=0.0, gpu_hours=0.0,
                          preemption_overhead=0.0, cost=None)  # fmt: skip
        hours = sum(time.hours for time in placed.times)
        stages = self.stages_on(fleet.ranks)
        assert stages is not None
        overhead = preemption_overhead(
            stages, placed.times, offer.preemptions_per_hour * fleet.instances, self.request.assumptions.restart_hours
        )
        rates, assumptions = self.catalog.rates(offer.provider), self.request.assumptions
        return Option(
            **common,
            fits=True,
            placed_as="replaced" if placed.replaced else "profile",
            stages=placed.times,
            training_hours=hours * (1 + overhead),
            gpu_hours=hours * (1 + overhead) * fleet.gpus,
            preemption_overhead=overhead,
            cost=rented_cost(offer, fleet.instances, hours, overhead, self.corpus, rates, assumptions),
            committed_usd=0.0 if assumptions.has_reservations else committed_usd(offer, fleet.instances),
        )

    def _placed(self, fleet: Fleet) -> _Placed:
        offer = fleet.offer
        key = (offer.instance, offer.provider, offer.gpu, fleet.instances, fleet.ranks, fleet.mfu)
        if key not in self._times:
            self._times[key] = self._place(fleet)
        return self._times[key]

    def _place(self, fleet: Fleet) -> _Placed:
        if not fleet.connected:
            needed = f"{fleet.instances} instances are needed, and they are not connected to train together"
            return _Placed((), False, (needed,))
        stages = self.stages_on(fleet.ranks)
        assert stages is not None
        times, notes, replaced = [], [], False
        for stage in stages:
            placement = self._fitting(stage, fleet)
            if placement is None:
                return _Placed((), False, (_does_not_fit(stage, fleet),))
            if placement != stage.placement():
                replaced = True
                notes.append(f"{stage.name}: {', '.join(placement.measures)}{_why(stage, fleet)}")
            times.append(_time(stage, placement, fleet))
        return _Placed(tuple(times), replaced, tuple(notes))

    def _fitting(self, stage: TrainingStageConfig, fleet: Fleet) -> TrainingPlacement | None:
        """The profile's placement if it fits, else the cheapest that does."""
        own = stage.placement()
        memory = gpu_training_memory(stage.stage_model, stage.context_tokens, own)
        fits = memory.total <= fleet.gpu_bytes and fleet.holds(memory.cpu_total)
        if fits and network_time(stage, own, fleet) <= _NETWORK_SHARE:
            return own
        if stage.precision != "bf16":
            return own if fits else None
        ways = [way for way in self._fitting_ways(stage, fleet) if fleet.holds(way.memory.cpu_total)]
        costs = {way.placement: way.slowdown + network_time(stage, way.placement, fleet) for way in ways}
        return min(costs, key=lambda placement: costs[placement], default=None)

    def _fitting_ways(self, stage: TrainingStageConfig, fleet: Fleet) -> list[WayToFit]:
        key = (stage.name, fleet.ranks, fleet.gpu_bytes)
        if key not in self._ways:
            self._ways[key] = fitting_ways(stage, fleet.gpu_bytes)
        return self._ways[key]

    def _notes(self, fleet: Fleet) -> Iterator[str]:
        if fleet.offer.derived:
            yield f"price not published, {fleet.offer.source}"
        if fleet.ranks != self.request.ranks:
            yield f"trains on {fleet.ranks} GPUs, the profile on {self.request.ranks}: set training.ranks"
        if fleet.ranks < fleet.gpus:
            yield f"{fleet.gpus - fleet.ranks} of {fleet.gpus} GPUs idle, paid for"


@dataclass(frozen=True)
class _Placed:
    times: tuple[StageTime, ...]
    replaced: bool
    notes: tuple[str, ...]


def option_name(fleet: Fleet) -> str:
    """The offer, and how many of it."""
    return f"{fleet.instances} x {fleet.offer.name}" if fleet.instances > 1 else fleet.offer.name


def _why(stage: TrainingStageConfig, fleet: Fleet) -> str:
    own = gpu_training_memory(stage.stage_model, stage.context_tokens, stage.placement())
    if own.total <= fleet.gpu_bytes and fleet.holds(own.cpu_total):
        return ", to spare the network"
    return f", to fit {fleet.offer.gpu_memory_gb:g} GB"


def _does_not_fit(stage: TrainingStageConfig, fleet: Fleet) -> str:
    own = gpu_training_memory(stage.stage_model, stage.context_tokens, stage.placement())
    return (
        f"stage '{stage.name}' needs {own.total / _GB:.1f} GB on each of {fleet.ranks} GPUs of "
        f"{fleet.offer.gpu_memory_gb:g} GB, and no placement makes it fit"
    )


def _time(stage: TrainingStageConfig, placement: TrainingPlacement, fleet: Fleet) -> StageTime:
    hours = training_hours(stage, placement, fleet)
    added = added_time(stage, placement, fleet)
    return StageTime(
        stage=stage.name,
        hours=hours,
        gpu_hours=hours * fleet.gpus,
        tokens_per_second=stage.steps * stage.batch_tokens / (hours * 3600),
        mfu=fleet.mfu / (1 + added),
        slowdown=added,
        placement=memory_row(stage, placement, added, is_profile=placement == stage.placement()),
    )
