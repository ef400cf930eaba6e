"""Hours and dollars in tables: by stage, by option, by what they are for."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.plan import BudgetPlan, CostLines, Option
from tasks.planning.presentation.choices import best_of_each, missed_limits, provider_of, variant_of
from tasks.planning.presentation.report_table import ReportTable
from tasks.reporting.formatting import count, dollars, duration, percent, size

_HOURS_PER_DAY = 24

_OPTION_COLUMNS = ("option", "GPUs", "time", "training", "rest", "all in", "USD/Mtok", "misses")

COST_TITLES = {
    "compute_usd": "training",
    "preemptions_usd": "preemptions: work done again",
    "evaluation_usd": "evaluation",
    "quantization_usd": "quantization",
    "preprocessing_usd": "preparing the data",
    "storage_usd": "storage",
    "transfer_usd": "transfer",
    "contingency_usd": "contingency",
}


def wall_clock(hours: float) -> str:
    """4 min 10 s, 4.2 h, 17 h, 3.2 days, 41 days."""
    if hours < 1:
        return duration(hours * 3600)
    if hours < 48:
        return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
    days = hours / _HOURS_PER_DAY
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


def hour_count(hours: float) -> str:
    """5,002, 12, 3.4, 0.078: hours of GPUs."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def money(amount: float) -> str:
    """$15,679, $685, $12.40, $0.0042: whole dollars from a hundred on, so that columns are quiet."""
    return f"${amount:,.0f}" if amount >= 100 else dollars(amount)


def cost_parts(cost: CostLines) -> dict[str, float]:
    """Dollars by what they are for, in the order of the tables; what costs nothing is left out."""
    amounts = {title: getattr(cost, field) for field, title in COST_TITLES.items()}
    return {title: amount for title, amount in amounts.items() if amount}


def stage_usd(option: Option) -> dict[str, float]:
    """Dollars of training by curriculum stage, preemptions included, in proportion to the hours."""
    if option.cost is None:
        return {}
    hours = sum(stage.hours for stage in option.stages)
    paid = option.cost.compute_usd + option.cost.preemptions_usd
    return {stage.stage: paid * stage.hours / hours for stage in option.stages}


def stage_table(plan: BudgetPlan, option: Option) -> ReportTable:
    """Hours, speed and dollars of each curriculum stage on one option."""
    contexts = {stage.name: stage.context_tokens for stage in plan.request.stages}
    tokens = {stage.stage: stage.tokens for stage in plan.flops}
    paid = stage_usd(option)
    rows = [
        (
            stage.stage,
            f"{contexts[stage.stage]:,}",
            count(tokens[stage.stage]),
            "measured" if stage.mfu is None else percent(stage.mfu),
            f"{stage.tokens_per_second:,.0f}",
            hour_count(stage.gpu_hours),
            wall_clock(stage.hours),
            money(paid[stage.stage]),
        )
        for stage in option.stages
    ]
    rows.append(("all", "", count(sum(tokens.values())), "", "", hour_count(option.gpu_hours),
                 wall_clock(option.training_hours), money(sum(paid.values()))))  # fmt: skip
    return ReportTable(
        key="stages",
        title=f"Training by stage on {option.name}",
        columns=("stage", "context", "tokens", "MFU", "tokens/s", "GPU hours", "time", "USD"),
        rows=tuple(rows),
        note=_preemption_note(option),
        emphasised=frozenset({len(rows) - 1}),
    )


def _preemption_note(option: Option) -> str:
    if not option.preemption_overhead:
        return ""
    return f"The sums include {percent(option.preemption_overhead)} expected for preemptions; the stages' times do not."


def cost_table(option: Option) -> ReportTable:
    """What the dollars of one option are for."""
    parts = {} if option.cost is None else cost_parts(option.cost)
    rows = [(title, money(amount), percent(amount / option.usd)) for title, amount in parts.items()]
    rows.append(("all", money(option.usd), "100%"))
    return ReportTable(
        key="costs",
        title=f"What the money is for on {option.name}",
        columns=("for", "USD", "share"),
        rows=tuple(rows),
        emphasised=frozenset({len(rows) - 1}),
    )


def option_table(plan: BudgetPlan, recommended: Option | None = None) -> ReportTable:
    """The best fleet of each provider and way of buying, the cheapest first."""
    options = best_of_each(plan)
    rows = [_option_row(plan, option) for option in options]
    chosen = frozenset(n for n, option in enumerate(options) if recommended and option.name == recommended.name)
    return ReportTable(
        key="options",
        title="Options, the cheapest of each provider and way of buying",
        columns=_OPTION_COLUMNS,
        rows=tuple(rows),
        note=_commitment_note(plan),
        emphasised=chosen,
    )


def all_options_table(plan: BudgetPlan) -> ReportTable:
    """Every option that fits, for the report."""
    options = [option for option in plan.options if option.cost is not None]
    return ReportTable(
        key="all-options",
        title="All options that fit",
        columns=_OPTION_COLUMNS,
        rows=tuple(_option_row(plan, option) for option in options),
    )


def _option_row(plan: BudgetPlan, option: Option) -> tuple[str, ...]:
    cost = option.cost
    assert cost is not None  # only options that fit are shown
    training = cost.compute_usd + cost.preemptions_usd
    return (
        option.name,
        "–" if option.offer is None else str(option.gpus),
        wall_clock(option.training_hours),
        money(training),
        money(cost.total_usd - training),
        money(cost.total_usd),
        dollars(cost.total_usd / plan.request.training_tokens * 1e6),
        _apart(option) or _missed(plan, option),
    )


def _apart(option: Option) -> str:
    """Why an option is shown but not ranked with the others."""
    if option.offer is not None and option.offer.edition:
        return f"{option.offer.edition} price"
    return f"binds {money(option.committed_usd)}" if option.committed_usd else ""


def _missed(plan: BudgetPlan, option: Option) -> str:
    missed = missed_limits(plan, option)
    return "both" if len(missed) > 1 else "".join(missed)


def _commitment_note(plan: BudgetPlan) -> str:
    bound = sum(1 for option in plan.options if option.committed_usd)
    if not bound:
        return ""
    return (
        f"{bound} reserved options are left out: they bind for a year or three. With reservations you have anyway, "
        "--have-reservations counts the hours used."
    )


def offer_table(plan: BudgetPlan) -> ReportTable:
    """The prices that options rest on: machine, price, day and source."""
    seen: dict[str, tuple[str, ...]] = {}
    for option in plan.options:
        offer = option.offer
        if offer is not None and offer.name not in seen:
            seen[offer.name] = (
                offer.name,
                offer.gpu,
                str(offer.gpus),
                f"{offer.gpu_memory_gb:g} GB",
                f"{offer.peak_bf16_teraflops:,.4g}",
                f"${offer.usd_per_hour:,.2f}",
                f"${offer.usd_per_gpu_hour:,.2f}",
                offer.as_of.isoformat(),
                ("derived: " if offer.derived else "") + offer.source,
            )
    rows = sorted(seen.values())
    return ReportTable(
        key="offers",
        title="Prices",
        columns=("offer", "GPU", "GPUs", "memory", "TFLOP/s", "an hour", "a GPU hour", "of", "source"),
        rows=tuple(rows),
        words=("GPU", "of", "source"),
    )


def corpus_table(plan: BudgetPlan) -> ReportTable:
    """The data: what is fetched, kept and stored, and the cores that prepare it."""
    corpus = plan.corpus
    rows = [
        ("text read", size(corpus.fetched_bytes)),
        ("text kept", size(corpus.kept_bytes)),
        ("token shards", size(corpus.token_bytes)),
        *((f"core hours, {stage}", f"{hours:,.4g}") for stage, hours in corpus.core_hours.items()),
        ("one checkpoint", size(corpus.checkpoint_bytes)),
        ("checkpoints kept at most", str(corpus.checkpoints_kept)),
        ("stored in all", size(corpus.stored_bytes)),
        ("released: model and formats", size(corpus.released_bytes)),
    ]
    return ReportTable(
        key="corpus", title="Data", columns=("what", "how much"), rows=tuple(rows), note=corpus.rates_source
    )


def cost_comparison_table(options: Sequence[tuple[str, Option]]) -> ReportTable:
    """Several options, each with a title, side by side, line by line."""
    fields = [field for field in COST_TITLES if any(o.cost and getattr(o.cost, field) for _, o in options)]
    rows = [(COST_TITLES[field], *(money(getattr(option.cost, field)) for _, option in options)) for field in fields]
    rows.append(("all", *(money(option.usd) for _, option in options)))
    return ReportTable(
        key="cost-comparison",
        title="Cost breakdown",
        columns=("for", *(title for title, _ in options)),
        rows=tuple(rows),
        emphasised=frozenset({len(rows) - 1}),
    )


def provider_names(plan: BudgetPlan) -> list[str]:
    """Providers with an option that fits, in order of their cheapest one."""
    return list(dict.fromkeys(provider_of(option) for option in plan.usable()))


def variants_of(plan: BudgetPlan) -> list[str]:
    """Ways of buying among the options that fit."""
    return list(dict.fromkeys(variant_of(option) for option in plan.usable()))
