"""The resource and budget planning report, in Markdown: the founding report's sections with every figure computed.

A section is a function from the plan (and what was found of its risk) to Markdown; sections with nothing to say are
left out. Figures that are stated by people, not computed, say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.plan import BudgetPlan
from tasks.planning.presentation.choices import Choices, choices
from tasks.planning.presentation.cost_tables import (
    all_options_table,
    corpus_table,
    cost_comparison_table,
    money,
    offer_table,
    option_table,
    stage_table,
    wall_clock,
)
from tasks.planning.presentation.findings import Findings, pattern_flops
from tasks.planning.presentation.headline import headline
from tasks.planning.presentation.model_tables import (
    flops_table,
    longest_context_table,
    memory_grid_table,
    memory_table,
    parameter_table,
)
from tasks.planning.presentation.plan_risk import tier_options
from tasks.planning.presentation.report_table import ReportTable, markdown_table
from tasks.planning.presentation.risk_sections import budget_section, return_section, risk_section, timeline_section
from tasks.planning.presentation.risk_tables import people_table
from tasks.planning.presentation.sections import folded, picture, section
from tasks.reporting.formatting import count, percent
from tasks.training import TrainingStageConfig


def markdown_report(
    plan: BudgetPlan,
    findings: Findings | None = None,
    *,
    plots: Sequence[str] = (),
    further: Sequence[ReportTable] = (),
) -> str:
    """The whole report. plots: file names beside it, shown where they belong; further: tables at the end."""
    named = choices(plan)
    sections = [
        summary_section(plan, findings),
        model_section(plan, plots),
        memory_section(plan, plots),
        curriculum_section(plan, named),
        option_section(plan, named, plots),
        data_section(plan),
        cost_section(plan, plots),
    ]
    if findings is not None:
        sections += [
            people_section(findings),
            risk_section(findings, plots),
        ]
    sections.append(optimisation_section(plan))
    if findings is not None:
        sections += [budget_section(findings), timeline_section(findings, plots), return_section(findings, plots)]
    sections += [section(table.title, markdown_table(table)) for table in further]
    sections.append(assumption_section(plan))
    return "\n\n".join([_title(plan), *filter(None, sections)]) + "\n"


def _title(plan: BudgetPlan) -> str:
    return (
        f"# Resources and budget: {plan.request.profile}\n\n"
        f"Computed {plan.made_on.isoformat()} from the profile and the price catalog of "
        f"{plan.catalog_as_of.isoformat()}. Nothing in it was written by hand; what people stated is marked so."
    )


def summary_section(plan: BudgetPlan, findings: Findings | None) -> str:
    """The answer."""
    top = headline(plan, findings.risk if findings else None)
    lines = [f"- **{label}**: {sentence}" for label, sentence in top.lines]
    if findings is not None:
        cost = findings.risk.project.cost_usd
        lines.append(
            f"- **With people's work** (stated): {money(cost.mean)} expected, {money(cost.p95)} enough in 19 of 20 "
            f"cases; done after {wall_clock(findings.risk.project.finish_hours.p50)}, half the time later"
        )
    return section("Executive summary", f"**{top.what}**", "\n".join(lines), *_quoted(plan.warnings))


def _quoted(warnings: Sequence[str]) -> list[str]:
    return ["\n".join(f"> {warning}" for warning in warnings)] if warnings else []


def model_section(plan: BudgetPlan, plots: Sequence[str]) -> str:
    """Parameters and FLOPs."""
    model = plan.request.model
    kinds = {kind: model.mixer_kinds.count(kind) for kind in dict.fromkeys(model.mixer_kinds)}
    shape = (
        f"{model.layer_count} layers of width {model.width:,} "
        f"({', '.join(f'{number} {kind}' for kind, number in kinds.items())}), feed-forwards of "
        f"{model.feed_forward_width:,}, {model.vocabulary_size:,} tokens of vocabulary, contexts up to "
        f"{model.maximum_context:,} tokens."
    )
    simple = 6 * plan.parameters.total * plan.request.training_tokens
    rule = (
        f"The rule of thumb, 6 FLOPs a parameter and token, would say {simple:.2e}; counted by layer and context it is "
        f"{plan.total_flops:.2e} ({plan.total_flops / simple - 1:+.1%})."
    )
    return section(
        "Model",
        shape,
        markdown_table(parameter_table(plan)),
        f"### {flops_table(plan).title}",
        markdown_table(flops_table(plan)),
        rule,
        picture("FLOPs a token by type of layer", "flops-per-token.png", plots),
    )


def memory_section(plan: BudgetPlan, plots: Sequence[str]) -> str:
    """What fits."""
    table, longest, grid = memory_table(plan), longest_context_table(plan), memory_grid_table(plan)
    return section(
        "Memory",
        f"{table.title}.",
        markdown_table(table),
        picture("Memory of a GPU by stage", "memory.png", plots),
        f"{longest.title}.",
        markdown_table(longest),
        folded(grid.title, markdown_table(grid)),
    )


def curriculum_section(plan: BudgetPlan, named: Choices | None) -> str:
    """Stages with their settings, and their hours and dollars on the recommended option."""
    rows = tuple(
        (
            stage.name,
            f"{stage.context_tokens:,}",
            count(stage.steps * stage.batch_tokens),
            f"{stage.steps:,}",
            f"{stage.batch_tokens:,}",
            f"{stage.learning_rate:g} to {stage.final_learning_rate:g}",
            _sources(stage),
        )
        for stage in plan.request.stages
    )
    settings = ReportTable(
        "curriculum",
        "Curriculum",
        ("stage", "context", "tokens", "updates", "batch", "learning rate", "sources"),
        rows,
        words=("sources",),
    )
    if named is None:
        return section("Curriculum", markdown_table(settings))
    stages = stage_table(plan, named.recommended)
    return section("Curriculum", markdown_table(settings), f"### {stages.title}", markdown_table(stages))


def _sources(stage: TrainingStageConfig) -> str:
    weights = stage.mixture or {}
    return ", ".join(sorted(weights, key=lambda name: -weights[name])) or "all"


def option_section(plan: BudgetPlan, named: Choices | None, plots: Sequence[str]) -> str:
    """Hardware and providers."""
    if named is None:
        reasons = [f"- {rejection.option}: {'; '.join(rejection.reasons)}" for rejection in plan.rejections]
        return section("Hardware and providers", "Nothing on offer fits.", "\n".join(reasons))
    everything = all_options_table(plan)
    notes = [f"- {option.name}: {note}" for option in (named.recommended, named.fastest) for note in option.notes]
    return section(
        "Hardware and providers",
        markdown_table(option_table(plan, named.recommended)),
        "\n".join(dict.fromkeys(notes)),
        picture("Cost against time", "cost-against-time.png", plots),
        folded(everything.title, markdown_table(everything)),
    )


def data_section(plan: BudgetPlan) -> str:
    """The data set and its processing."""
    return section(
        "Data and its processing", f"Figures from: {plan.request.corpus.source}.", markdown_table(corpus_table(plan))
    )


def cost_section(plan: BudgetPlan, plots: Sequence[str]) -> str:
    """What the money is for, for the three ways of buying that the budgets stand for."""
    options = [(f"{tier}: {option.name}", option) for tier, (_, option) in tier_options(plan).items()]
    if not options:
        named = choices(plan)
        options = [(named.recommended.name, named.recommended)] if named else []
    if not options:
        return ""
    return section(
        "Cost breakdown",
        markdown_table(cost_comparison_table(options)),
        picture("Cost by option", "cost-by-option.png", plots),
    )


def people_section(findings: Findings) -> str:
    """Development and validation, as stated."""
    return section("Development and validation", markdown_table(people_table(findings.project)))


def optimisation_section(plan: BudgetPlan) -> str:
    """What was computed of ways to spend less."""
    lines = []
    patterns = pattern_flops(plan)
    for other in patterns[1:]:
        lines.append(
            f"- The hybrid as planned ({patterns[0].attention_layers} attention layers) takes "
            f"{_saving(patterns[0].flops, other.flops)} FLOPs than the same model with {_pattern(other.title)} "
            f"({other.attention_layers} attention layers)."
        )
    recomputed = plan.hardware_flops / plan.total_flops - 1
    if recomputed > 0:
        lines.append(f"- Recomputing blocks where memory asks for it adds {percent(recomputed)} of work.")
    tiers = tier_options(plan)
    if {"aggressive", "conservative"} <= set(tiers):
        cheap, plain = tiers["aggressive"][1], tiers["conservative"][1]
        if cheap.usd < plain.usd:
            lines.append(
                f"- {cheap.name} costs {percent(1 - cheap.usd / plain.usd)} less than the cheapest on demand, "
                f"preemptions included ({percent(cheap.preemption_overhead)} more time)."
            )
    return section("Optimisation", "\n".join(lines))


def _saving(planned: float, other: float) -> str:
    share = 1 - planned / other
    return f"{percent(share)} fewer" if share >= 0 else f"{percent(-share)} more"


def _pattern(title: str) -> str:
    return "one layer of attention in six" if title == "5:1" else title


def assumption_section(plan: BudgetPlan) -> str:
    """What the figures rest on."""
    fields = type(plan.request.assumptions).model_fields
    rows = tuple(
        (name.replace("_", " "), _value(value), fields[name].description or "")
        for name, value in plan.request.assumptions
    )
    assumed = ReportTable(
        "assumptions", "Assumptions", ("assumption", "value", "meaning"), rows, words=("value", "meaning")
    )
    offers = offer_table(plan)
    return section(
        "Assumptions and sources",
        markdown_table(assumed),
        f"### {offers.title}",
        markdown_table(offers),
        f"Data rates: {plan.corpus.rates_source}",
        *([f"Measured machine: {plan.request.machine.source}"] if plan.request.machine else []),
    )


def _value(value: object) -> str:
    if value is None:
        return "by kind of GPU"
    return f"{value:g}" if isinstance(value, float) else str(value)
