"""What would meet the budget or the deadline when no option does, and why options are out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from model import PRESETS, ModelConfig
from model.sizing import parameter_count
from tasks.planning.plan import CostLines, Option, Rejection, Remedy
from tasks.planning.request import PlanRequest

#: Names of presets that differ in size alone, the smallest first.
FAMILIES = (
    ("tiny", "small", "medium", "large", "xl"),
    ("mamba-slm-1.3b", "mamba-slm-2.7b", "mamba-slm-6.7b", "mamba-slm-13b"),
)
#: Above it nobody trains: what a remedy may ask of the utilisation.
_HIGHEST_MFU = 0.65


def rejections(request: PlanRequest, options: Sequence[Option]) -> tuple[Rejection, ...]:
    """Options that are out, each with every reason."""
    found = ((option.name, tuple(_reasons(request, option))) for option in options)
    return tuple(Rejection(option=name, reasons=reasons) for name, reasons in found if reasons)


def _reasons(request: PlanRequest, option: Option) -> Iterator[str]:
    if option.cost is None:
        yield f"does not fit: {option.notes[-1]}"
        return
    deadline, budget = request.deadline_hours, request.budget_usd
    if deadline is not None and option.training_hours > deadline:
        yield f"over the deadline: {option.training_hours:,.0f} h of {deadline:,.0f} h"
    if budget is not None and option.usd > budget:
        yield f"over the budget: {option.usd:,.0f} USD of {budget:,.0f} USD"
    if option.committed_usd:
        yield f"binds to {option.committed_usd:,.0f} USD for its whole term, used or not"
    if option.offer is not None and option.offer.edition:
        yield f"a price of {option.offer.as_of.isoformat()} ({option.offer.edition}), kept for comparison"


def remedies(
    request: PlanRequest, options: Sequence[Option], cheapest_with: Callable[[ModelConfig], float | None]
) -> tuple[Remedy, ...]:
    """What would do, when no usable option keeps to budget and deadline; empty when one does.

    cheapest_with: USD of the cheapest option within the deadline for another model, None when there is none.
    """
    usable = [option for option in options if option.is_usable]
    budget, deadline = request.budget_usd, request.deadline_hours
    if not usable or (budget is None and deadline is None):
        return ()
    in_time = [option for option in usable if deadline is None or option.training_hours <= deadline]
    within = [option for option in in_time if budget is None or option.usd <= budget]
    if within:
        return ()
    found: list[Remedy] = []
    if not in_time:
        assert deadline is not None
        fastest = min(usable, key=lambda option: (option.training_hours, option.usd))
        found.append(_longer(fastest, deadline))
    if budget is not None:
        cheapest = min(in_time or usable, key=lambda option: option.usd)
        found += _cheaper(request, cheapest, budget, cheapest_with)
    return tuple(found)


def _longer(fastest: Option, deadline: float) -> Remedy:
    text = (
        f"a deadline of {fastest.training_hours:,.0f} h instead of {deadline:,.0f} h: {fastest.name} for "
        f"{fastest.usd:,.0f} USD"
    )
    return Remedy(kind="deadline", text=text, value=fastest.training_hours)


def _cheaper(
    request: PlanRequest, cheapest: Option, budget: float, cheapest_with: Callable[[ModelConfig], float | None]
) -> Iterator[Remedy]:
    yield Remedy(kind="budget", text=f"a budget of {cheapest.usd:,.0f} USD: {cheapest.name}", value=cheapest.usd)
    assert cheapest.cost is not None
    share = affordable_share(cheapest.cost, budget)
    if share > 0:
        tokens = share * request.training_tokens
        text = (
            f"{tokens / 1e9:,.3g}B training tokens instead of {request.training_tokens / 1e9:,.3g}B on {cheapest.name}"
        )
        yield Remedy(kind="tokens", text=text, value=tokens)
    yield from _smaller_model(request, budget, cheapest_with)
    mfu = max((time.mfu for time in cheapest.stages if time.mfu is not None), default=None)
    if mfu is not None and share > 0 and mfu / share <= _HIGHEST_MFU:
        text = f"an MFU of {mfu / share:.0%} instead of {mfu:.0%} on {cheapest.name}: measure it with `sam2 calibrate`"
        yield Remedy(kind="mfu", text=text, value=mfu / share)


def affordable_share(cost: CostLines, budget: float) -> float:
    """Share of the training that the budget pays for, between 0 and 1; 0 when it does not pay for what is fixed.

    Training, its interruptions, evaluation and quantization shrink with the tokens; data, storage and transfer do not.
    """
    plain = cost.total_usd - cost.contingency_usd
    factor = cost.total_usd / plain if plain else 1.0
    training = cost.compute_usd + cost.preemptions_usd + cost.evaluation_usd + cost.quantization_usd
    if training == 0:
        return 0.0
    return min(1.0, max(0.0, (budget / factor - (plain - training)) / training))


def _smaller_model(
    request: PlanRequest, budget: float, cheapest_with: Callable[[ModelConfig], float | None]
) -> Iterator[Remedy]:
    own = next((name for name, config in PRESETS.items() if config == request.model), None)
    family = next((family for family in FAMILIES if own in family), ())
    for name in reversed(family[: family.index(own)] if own in family else ()):
        usd = cheapest_with(PRESETS[name])
        if usd is not None and usd <= budget:
            text = f"the model {name} on the same tokens: {usd:,.0f} USD"
            yield Remedy(kind="model", text=text, value=float(parameter_count(PRESETS[name]).total))
            return
