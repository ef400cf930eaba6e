"""The model in tables: parameters, FLOPs a token, memory on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from model.sizing.fitting import CONTEXT_STEP
from tasks.planning.plan import BudgetPlan, MemoryRow, StageFlops
from tasks.planning.presentation.report_table import ReportTable
from tasks.reporting.formatting import count, percent

KIND_TITLES = {"hgrn2": "HGRN-2", "gated_deltanet": "Gated DeltaNet", "mamba2": "Mamba-2", "attention": "attention"}
_GB = 1e9
_GIGA = 1e9


def kind_title(kind: str) -> str:
    """A mixer's name as people write it."""
    return KIND_TITLES.get(kind, kind.replace("_", " "))


def parameter_table(plan: BudgetPlan) -> ReportTable:
    """Parameters by component, with what each is of the whole."""
    parameters, kinds = plan.parameters, plan.request.model.mixer_kinds
    lines = {"embedding": parameters.embedding}
    for kind, weights in parameters.mixers.items():
        lines[f"{kind_title(kind)} mixers, {_layers(kinds.count(kind))}"] = weights
    lines |= {
        "feed-forward": parameters.feed_forward,
        "norms and the gates' lower bounds": parameters.norms + parameters.lower_bounds,
        "head": parameters.head,
    }
    rows = [(name, f"{weights:,}", percent(weights / parameters.total)) for name, weights in lines.items() if weights]
    rows.append(("all", f"{parameters.total:,}", "100%"))
    return ReportTable(
        key="parameters",
        title="Parameters",
        columns=("component", "parameters", "share"),
        rows=tuple(rows),
        note="The head is the embedding again." if not parameters.head else "",
        emphasised=frozenset({len(rows) - 1}),
    )


def _layers(number: int) -> str:
    return "1 layer" if number == 1 else f"{number} layers"


def flops_parts(stage: StageFlops) -> dict[str, float]:
    """FLOPs a token by type of layer. Attention's matrices and its work over the context are told apart."""
    parts = {}
    for kind, projections in stage.projections.items():
        if kind == "attention":
            parts["attention, matrices"] = projections
            parts["attention, over the context"] = stage.attention_quadratic
        else:
            parts[kind_title(kind)] = projections + stage.linear_mixing.get(kind, 0.0)
    return parts | {"feed-forward": stage.feed_forward, "head": stage.head}


def flops_table(plan: BudgetPlan) -> ReportTable:
    """GFLOP a token, a row for each type of layer and a column for each context; then what the stages take in all."""
    columns: dict[int, list[StageFlops]] = {}
    for stage in plan.flops:
        columns.setdefault(stage.context_tokens, []).append(stage)
    parts = [flops_parts(stages[0]) for stages in columns.values()]
    rows = [(name, *(f"{part[name] / _GIGA:,.3g}" for part in parts), "") for name in parts[0]]
    rows.append(("sum", *(f"{stages[0].per_token / _GIGA:,.3g}" for stages in columns.values()), ""))
    if any(stage.recomputed for stage in plan.flops):
        again = [max(stage.recomputed for stage in stages) for stages in columns.values()]
        rows.append(("recomputed besides", *(f"{flops / _GIGA:,.3g}" if flops else "–" for flops in again), ""))
    tokens = [sum(stage.tokens for stage in stages) for stages in columns.values()]
    rows.append(("tokens", *map(count, tokens), count(sum(tokens))))
    totals = [sum(stage.total for stage in stages) for stages in columns.values()]
    rows.append(("FLOPs in all", *(f"{total:.2e}" for total in totals), f"{plan.total_flops:.2e}"))
    return ReportTable(
        key="flops",
        title="GFLOP to train on one token, by type of layer and context",
        columns=("layers", *(f"{context:,}" for context in columns), "all"),
        rows=tuple(rows),
        note="Forward and backward. Blocks recomputed to save memory are work, not progress, and no part of the sum.",
        emphasised=frozenset({len(parts[0]), len(rows) - 1}),
    )


def gpu_sizes_gb(plan: BudgetPlan) -> list[float]:
    """Memory of the GPUs that the plan's offers have, each size once, the smallest first."""
    return sorted({option.offer.gpu_memory_gb for option in plan.options if option.offer is not None})


def placement_words(row: MemoryRow) -> str:
    """How a stage is placed, in a few words."""
    words = {
        f"ZeRO-{row.zero_stage}": True,
        f"micro-batch {row.micro_batch}": row.micro_batch > 1,
        f"rows over {row.sequence_parallel}": row.sequence_parallel > 1,
        "recomputed": row.gradient_checkpointing,
        "feed-forward in parts": row.feed_forward_chunk_tokens is not None,
        "inputs on CPU": row.offload_activations,
        "optimiser on CPU": row.offload_optimizer,
        "weights on CPU": row.offload_parameters,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def quickest_within(rows: Sequence[MemoryRow], memory_gb: float) -> MemoryRow | None:
    """The placement that fits and costs least time; None when none fits."""
    fitting = [row for row in rows if row.total_bytes <= memory_gb * _GB]
    return min(fitting, key=lambda row: (row.slowdown, row.total_bytes), default=None)


def gpu_words(plan: BudgetPlan) -> str:
    """The GPUs that the profile trains on, in words."""
    return "the GPU" if plan.request.ranks == 1 else f"each of {plan.request.ranks} GPUs"


def memory_table(plan: BudgetPlan) -> ReportTable:
    """Each stage as the profile places it, and for each size of GPU whether that fits or what would."""
    sizes = gpu_sizes_gb(plan)
    rows = []
    for stage in plan.request.stages:
        grid = [row for row in plan.memory if row.stage == stage.name]
        own = next((row for row in grid if row.is_profile), None)
        if own is None:
            continue
        rows.append(
            (
                stage.name,
                placement_words(own),
                f"{stage.context_tokens:,}",
                f"{own.states_bytes / _GB:,.3g}",
                f"{(own.buffers_bytes + own.activations_bytes) / _GB:,.3g}",
                f"{own.total_bytes / _GB:,.3g}",
                *(_fit(own, grid, size) for size in sizes),
            )
        )
    return ReportTable(
        key="memory",
        title=f"GB on {gpu_words(plan)}, and whether it fits",
        columns=("stage", "placement", "context", "states", "rest", "sum", *(f"in {size:g} GB" for size in sizes)),
        rows=tuple(rows),
        note="yes: as the profile places it; GB: not so, but placed otherwise, the quickest way; no: no way.",
        words=("placement",),
    )


def _fit(own: MemoryRow, grid: Sequence[MemoryRow], size_gb: float) -> str:
    if own.total_bytes <= size_gb * _GB:
        return "yes"
    other = quickest_within(grid, size_gb)
    return "no" if other is None else f"{other.total_bytes / _GB:,.3g} GB"


def longest_context_table(plan: BudgetPlan) -> ReportTable:
    """The longest row that trains at all: a step deeper into the CPU's memory and the other GPUs with each line."""
    sizes = [f"{size:g}" for size in gpu_sizes_gb(plan)]
    found = {placement_words(row): row.largest_contexts for row in plan.memory if row.largest_contexts}
    # Of the placements that reach equally far on every size of GPU, the one told first takes the fewest measures.
    reach: dict[tuple[int, ...], str] = {}
    for words, contexts in sorted(found.items(), key=lambda item: (item[0].count(","), item[0])):
        reach.setdefault(tuple(contexts.get(size, 0) for size in sizes), words)
    best = _without_the_beaten(reach)
    rows = [
        (
            words.replace(" on CPU, ", ", "),
            *(f"{context // CONTEXT_STEP:,}K" if context else "–" for context in contexts),
        )
        for contexts, words in sorted(best.items(), key=lambda item: item[0])
    ]
    return ReportTable(
        key="longest-context",
        title=f"Longest row that fits on {gpu_words(plan)}, in K = 1,024 tokens, one row at a time",
        columns=("placement", *(f"{size} GB" for size in sizes)),
        rows=tuple(rows),
        note="Each line needs more measures than the one above it; those that reach no further are left out.",
        words=("placement",),
    )


def _without_the_beaten(reach: dict[tuple[int, ...], str]) -> dict[tuple[int, ...], str]:
    """Placements that no other beats with as few measures."""

    def is_beaten(contexts: tuple[int, ...], words: str) -> bool:
        return any(
            other.count(",") <= words.count(",") and further != contexts
            and all(there >= here for there, here in zip(further, contexts, strict=True))
            for further, other in reach.items()
        )  # fmt: skip

    return {contexts: words for contexts, words in reach.items() if any(contexts) and not is_beaten(contexts, words)}


def memory_grid_table(plan: BudgetPlan) -> ReportTable:
    """GB by stage and ZeRO stage with one row at a time, with and without recomputation, rows whole or shared."""
    plain = [row for row in plan.memory if row.micro_batch == 1 and not (row.offload_activations
             or row.offload_parameters or row.feed_forward_chunk_tokens)]  # fmt: skip
    columns = sorted({(row.zero_stage, row.offload_optimizer) for row in plain}, key=lambda key: (key[1], key[0]))
    cells = {
        (row.stage, row.sequence_parallel, row.gradient_checkpointing, row.zero_stage, row.offload_optimizer): row
        for row in plain
    }
    contexts = {stage.name: stage.context_tokens for stage in plan.request.stages}
    rows = []
    for stage, shared, recomputed in dict.fromkeys(key[:3] for key in cells):
        found = [cells.get((stage, shared, recomputed, *column)) for column in columns]
        rows.append(
            (
                f"{contexts[stage]:,}",
                "whole" if shared == 1 else f"over {shared} GPUs",
                "recomputed" if recomputed else "kept",
                *("–" if row is None else f"{row.total_bytes / _GB:,.1f}" for row in found),
            )
        )
    return ReportTable(
        key="memory-grid",
        title="GB on each GPU by placement, one row at a time",
        columns=("context", "rows", "blocks",
                 *(f"ZeRO-{zero}{', optimiser on CPU' if away else ''}" for zero, away in columns)),
        rows=tuple(rows),
        words=("rows", "blocks"),
    )  # fmt: skip
