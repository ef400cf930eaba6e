"""The machine that was measured, as an option beside what can be rented."""

from __future__ import annotations

from model.sizing import training_flops_per_token
from tasks.planning.costs import owned_cost
from tasks.planning.plan import CorpusPlan, Option, StageTime
from tasks.planning.request import Machine, MeasuredRate, PlanRequest
from tasks.training import TrainingStageConfig


def machine_option(request: PlanRequest, machine: Machine, corpus: CorpusPlan) -> Option:
    """Its hours from measured rates; a stage that was not measured takes the rate of the nearest context, by FLOPs."""
    times = tuple(_time(stage, machine, request.ranks) for stage in request.stages)
    hours = sum(time.hours for time in times)
    measured = {rate.stage for rate in machine.rates}
    scaled = [stage.name for stage in request.stages if stage.name not in measured]
    notes = [f"measured: {machine.source}"]
    if scaled:
        notes.append(f"not measured, scaled by FLOPs: {', '.join(scaled)}")
    return Option(
        name=machine.name, offer=None, instances=1, gpus=request.ranks, ranks=request.ranks, fits=True,
        placed_as="measured", stages=times, training_hours=hours, gpu_hours=hours * request.ranks,
        preemption_overhead=0.0, cost=owned_cost(machine, hours, corpus, request.assumptions), notes=tuple(notes),
    )  # fmt: skip


def _time(stage: TrainingStageConfig, machine: Machine, ranks: int) -> StageTime:
    rate = tokens_per_second(stage, machine.rates)
    hours = stage.steps * stage.batch_tokens / rate / 3600
    return StageTime(
        stage=stage.name, hours=hours, gpu_hours=hours * ranks, tokens_per_second=rate, mfu=None, slowdown=0.0,
        placement=None,
    )  # fmt: skip


def tokens_per_second(stage: TrainingStageConfig, rates: tuple[MeasuredRate, ...]) -> float:
    """Of this stage: its own rate if it was measured, else that of the nearest context times the ratio of FLOPs."""
    own = next(
        (rate for rate in rates if rate.stage == stage.name and rate.context_tokens == stage.context_tokens), None
    )
    if own is not None:
        return own.tokens_per_second
    near = min(rates, key=lambda rate: abs(rate.context_tokens - stage.context_tokens))
    there = training_flops_per_token(stage.stage_model, near.context_tokens).total
    here = training_flops_per_token(stage.stage_model, stage.context_tokens).total
    return near.tokens_per_second * there / here
