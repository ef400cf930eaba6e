"""The plan of a request: everything computed, options sorted, and what would do when nothing does."""

from __future__ import annotations

from datetime import date

from pydantic import ValidationError

from infra.budget import PriceCatalog
from model import ModelConfig
from tasks.planning.corpus import corpus_plan
from tasks.planning.flops import stage_flops
from tasks.planning.memory import memory_grid
from tasks.planning.options import OptionTable
from tasks.planning.own_machine import machine_option
from tasks.planning.parameters import count_parameters
from tasks.planning.plan import BudgetPlan, Option
from tasks.planning.remedies import rejections, remedies
from tasks.planning.request import PlanRequest

#: Below so many parameters no utilisation was found published.
_SMALLEST_MEASURED = 125e6


def plan(request: PlanRequest, catalog: PriceCatalog, *, today: date | None = None) -> BudgetPlan:
    """Parameters, FLOPs, memory, hours and dollars of a request at a catalog's prices.

    `today` is what prices are old by; left out, the day it is. Raises ConfigurationError for a catalog that lacks what
    the request needs.
    """
    today = today or date.today()
    parameters = count_parameters(request.model)
    corpus = corpus_plan(request, parameters.total)
    options = _options(request, catalog)
    return BudgetPlan(
        request=request,
        made_on=today,
        catalog_as_of=catalog.as_of,
        parameters=parameters,
        flops=tuple(stage_flops(stage) for stage in request.stages),
        memory=memory_grid(request.stages, sorted({offer.gpu_memory_gb for offer in catalog.offers})),
        corpus=corpus,
        options=options,
        rejections=rejections(request, options),
        remedies=remedies(request, options, lambda model: _cheapest_usd(request, catalog, model)),
        warnings=(*catalog.warnings(today), *_assumptions(request, catalog)),
    )


def _options(request: PlanRequest, catalog: PriceCatalog) -> tuple[Option, ...]:
    corpus = corpus_plan(request, count_parameters(request.model).total)
    found = list(OptionTable(request, catalog, corpus).options())
    if request.machine is not None:
        found.append(machine_option(request, request.machine, corpus))
    return tuple(sorted(found, key=lambda option: (option.usd, option.training_hours, option.name)))


def _cheapest_usd(request: PlanRequest, catalog: PriceCatalog, model: ModelConfig) -> float | None:
    """Of another model on the same curriculum within the deadline; None when it cannot be trained so.

    The machine that was measured is left out: what it measured was the request's own model.
    """
    stages = [stage.model_dump() | {"model": model} for stage in request.stages]
    try:
        other = PlanRequest.model_validate(
            request.model_dump(exclude={"stages", "model", "machine"}) | {"model": model, "stages": stages}
        )
    except ValidationError:
        return None
    deadline = request.deadline_hours
    return min(
        (
            option.usd
            for option in _options(other, catalog)
            if option.is_usable and (deadline is None or option.training_hours <= deadline)
        ),
        default=None,
    )


def _assumptions(request: PlanRequest, catalog: PriceCatalog) -> tuple[str, ...]:
    """The assumptions that move hours most, with what they rest on."""
    notes = []
    if any(offer.variant == "spot" for offer in catalog.offers):
        spot = catalog.spot_preemptions
        notes.append(f"spot: {spot.per_hour:g} preemptions an hour and instance: {spot.source}.")
    derived = sum(offer.derived for offer in catalog.offers)
    if derived:
        notes.append(
            f"{derived} of {len(catalog.offers)} prices were published nowhere and follow from others by rules."
        )
    parameters = count_parameters(request.model).total
    if parameters < _SMALLEST_MEASURED:
        notes.append(
            f"the model has {parameters / 1e6:,.1f}M parameters: a GPU reaches the assumed MFU with larger ones only, "
            "so hours and dollars of rented GPUs are too low here."
        )
    if request.assumptions.mfu is not None:
        return (*notes, f"hours assume an MFU of {request.assumptions.mfu:.0%} on every GPU, as asked for.")
    kinds: dict[tuple[float, str], list[str]] = {}
    for kind in catalog.gpus.values():
        kinds.setdefault((kind.default_mfu, kind.mfu_source), []).append(kind.title)
    return (
        *notes,
        *(
            f"hours on {', '.join(titles)} assume an MFU of {mfu:.0%}: {source}."
            for (mfu, source), titles in kinds.items()
        ),
    )
