"""A plan in pictures: what options cost, what time is worth, what fits a GPU, where FLOPs go as contexts grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model.sizing import training_flops_per_token
from tasks.charts import GRID, INK, KEPT, PALETTE, new_chart, save_chart, style_axes
from tasks.planning.plan import BudgetPlan, CostLines, Option
from tasks.planning.presentation.choices import best_of_each, pareto_front, provider_of, variant_of
from tasks.planning.presentation.cost_tables import money
from tasks.planning.presentation.model_tables import gpu_sizes_gb, gpu_words, kind_title, placement_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GB = _GIGA = 1e9
_HOURS_PER_DAY = 24
_MAXIMUM_BARS = 14
_LIMIT = "#b3261e"
_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 8.5, 5.4, 130
_MARKERS = {"on-demand": "o", "spot": "^", "reserved-1y": "s", "reserved-3y": "D", "own": "*"}
_SERIES = ["#2a9d8f", "#e76f51", "#457b9d", "#e9a23b", "#6d597a", "#8ab17d", "#b56576", "#7a7a7a"]

#: Parts of the stacked bars: title -> what of the cost it adds up.
_COST_PARTS: dict[str, Callable[[CostLines], float]] = {
    "training": lambda cost: cost.compute_usd,
    "preemptions": lambda cost: cost.preemptions_usd,
    "evaluation, quantization": lambda cost: cost.evaluation_usd + cost.quantization_usd,
    "preparing the data": lambda cost: cost.preprocessing_usd,
    "storage, transfer": lambda cost: cost.storage_usd + cost.transfer_usd,
    "contingency": lambda cost: cost.contingency_usd,
}
_COST_COLOURS = [KEPT, "#e76f51", "#457b9d", "#8ab17d", "#e9c46a", "#c9ced4"]


def plan_plots(plan: BudgetPlan) -> dict[str, Figure]:
    """All pictures by file name, without suffix; those of options only where an option fits."""
    figures = {"memory": memory_figure(plan), "flops-per-token": flops_figure(plan)}
    if plan.usable():
        figures |= {"cost-by-option": cost_figure(plan), "cost-against-time": time_figure(plan)}
    return figures


def write_plots(figures: dict[str, Figure], directory: Path) -> list[Path]:
    """One PNG each; the same plan makes the same files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(directory / f"{name}.png")
        save_chart(figure, paths[-1])
    return paths


def cost_figure(plan: BudgetPlan) -> Figure:
    """A bar for each provider's way of buying, the cheapest on top, stacked by what the money is for."""
    options = best_of_each(plan)[:_MAXIMUM_BARS]
    figure, axes = new_chart(f"{plan.request.profile}: what the options cost", len(options) + 1)
    names = [_short_name(option) for option in options][::-1]
    left = [0.0] * len(options)
    for (title, part), colour in zip(_COST_PARTS.items(), _COST_COLOURS, strict=True):
        amounts = [0.0 if option.cost is None else part(option.cost) for option in options][::-1]
        if any(amounts):
            axes.barh(names, amounts, left=left, color=colour, label=title, height=0.68)
            left = [start + usd for start, usd in zip(left, amounts, strict=True)]
    for place, usd in enumerate(left):
        axes.annotate(money(usd), (usd, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
                      color=INK)  # fmt: skip
    if plan.request.budget_usd is not None and plan.request.budget_usd <= 1.5 * max(left):
        _limit_line(axes.axvline, plan.request.budget_usd)
        axes.annotate(
            "budget", (plan.request.budget_usd, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -2),
            textcoords="offset points", va="top", color=_LIMIT, fontsize=8,
        )  # fmt: skip
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda value, _: money(value))
    axes.set_xlabel("USD, everything included", color=INK, fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=6, fontsize=8, frameon=False,
                  labelcolor=INK)  # fmt: skip
    return figure


def time_figure(plan: BudgetPlan) -> Figure:
    """Every option by time and cost, both logarithmic; the Pareto front as a line, budget and deadline as limits."""
    figure, axes = _panel(f"{plan.request.profile}: cost against time")
    usable = plan.usable()
    providers = list(dict.fromkeys(provider_of(option) for option in usable))
    for number, provider in enumerate(providers):
        for variant, marker in _MARKERS.items():
            shown = [o for o in usable if provider_of(o) == provider and variant_of(o) == variant]
            axes.scatter(
                [_days(option) for option in shown], [option.usd for option in shown], marker=marker, s=34,
                color=_SERIES[number % len(_SERIES)], alpha=0.85, linewidths=0, zorder=3,
            )  # fmt: skip
    front = pareto_front(usable)
    axes.plot([_days(option) for option in front], [option.usd for option in front], color=INK, linewidth=1.2, zorder=2)
    cheapest = front[0]  # others crowd around their neighbours; the tables name them
    axes.annotate(f"{_short_name(cheapest)}\n{money(cheapest.usd)}", (_days(cheapest), cheapest.usd), xytext=(6, -6),
                  textcoords="offset points", va="top", fontsize=8, color=INK, zorder=4)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _limits(plan, axes)
    _plain_log_ticks(axes)
    axes.margins(x=0.12, y=0.12)
    axes.yaxis.set_major_formatter(lambda value, _: money(value))
    axes.set_xlabel("days of training", color=INK, fontsize=9)
    axes.set_ylabel("USD, everything included", color=INK, fontsize=9)
    _time_legend(figure, axes, providers, list(dict.fromkeys(variant_of(option) for option in usable)))
    return figure


def _time_legend(figure: Figure, axes: Axes, providers: list[str], variants: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_SERIES[n % len(_SERIES)], marker="o", linestyle="", markersize=6, label=provider)
        for n, provider in enumerate(providers)
    ]
    handles += [
        Line2D([], [], color=INK, marker=_MARKERS[variant], linestyle="", markersize=6, label=variant)
        for variant in variants
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1.2, label="Pareto front"))
    figure.legend(handles=handles, loc="outside lower left", ncols=8, fontsize=8, frameon=False, labelcolor=INK)


def _limits(plan: BudgetPlan, axes: Axes) -> None:
    budget, deadline = plan.request.budget_usd, plan.request.deadline_hours
    if budget is not None:
        _limit_line(axes.axhline, budget)
        axes.annotate("budget", (1.0, budget), xycoords=("axes fraction", "data"), xytext=(-4, 3), ha="right",
                      textcoords="offset points", color=_LIMIT, fontsize=8)  # fmt: skip
    if deadline is not None:
        _limit_line(axes.axvline, deadline / _HOURS_PER_DAY)
        axes.annotate(
            "deadline", (deadline / _HOURS_PER_DAY, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -4), va="top",
            textcoords="offset points", color=_LIMIT, fontsize=8,
        )  # fmt: skip


def memory_figure(plan: BudgetPlan) -> Figure:
    """The profile's placement of every stage, stacked by what the bytes are, against the GPUs on offer."""
    rows = [row for row in plan.memory if row.is_profile]
    figure, axes = new_chart(f"{plan.request.profile}: memory of {gpu_words(plan)}", 2 * len(rows))
    names = [f"{row.stage}: {row.context_tokens:,} tokens\n{placement_words(row)}" for row in rows][::-1]
    left = [0.0] * len(rows)
    parts = {
        "weights": "weights_bytes",
        "gradients": "gradients_bytes",
        "optimiser": "optimizer_bytes",
        "buffers": "buffers_bytes",
        "activations": "activations_bytes",
    }
    for (title, field), colour in zip(parts.items(), [PALETTE[5], "#8ab17d", KEPT, "#c9ced4", PALETTE[1]], strict=True):
        amounts = [getattr(row, field) / _GB for row in rows][::-1]
        axes.barh(names, amounts, left=left, color=colour, label=title, height=0.6)
        left = [start + amount for start, amount in zip(left, amounts, strict=True)]
    for place, amount in enumerate(left):
        axes.annotate(f"{amount:.3g} GB", (amount, place), xytext=(5, 0), textcoords="offset points", va="center",
                      fontsize=8, color=INK)  # fmt: skip
    for memory_gb in gpu_sizes_gb(plan):
        if memory_gb <= 2.5 * max(left):
            axes.axvline(memory_gb, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
            axes.annotate(f"{memory_gb:g} GB", (memory_gb, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset points", ha="center", color=INK, fontsize=8)  # fmt: skip
    axes.margins(x=0.12)
    axes.set_xlabel("GB", color=INK, fontsize=9)
    axes.title.set_position((0, 1.0))
    axes.set_title(axes.get_title(loc="left"), loc="left", color=INK, fontsize=12, fontweight="bold", pad=20)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=8, frameon=False,
                  labelcolor=INK)  # fmt: skip
    return figure


def flops_figure(plan: BudgetPlan) -> Figure:
    """FLOPs a token by type of layer, over contexts up to the model's longest; the stages' contexts are marked."""
    model = plan.request.model
    stages = sorted({stage.context_tokens for stage in plan.request.stages})
    contexts, context = [], min(1024, stages[0])
    while context <= max(model.maximum_context, stages[-1]):
        contexts.append(context)
        context *= 2
    contexts = sorted({*contexts, *stages})
    counts = [training_flops_per_token(model, context) for context in contexts]
    lines: dict[str, list[float]] = {"all": [count.total for count in counts]}
    for kind in counts[0].mixer_projections:
        if kind == "attention":
            lines["attention, matrices"] = [count.mixer_projections[kind] for count in counts]
            lines["attention, over the context"] = [count.mixing[kind] for count in counts]
        else:
            lines[kind_title(kind)] = [count.mixer_projections[kind] + count.mixing[kind] for count in counts]
    lines["feed-forward"] = [count.feed_forward for count in counts]
    lines["head"] = [count.head for count in counts]
    figure, axes = _panel(f"{plan.request.profile}: FLOPs to train on one token")
    for (title, values), colour in zip(lines.items(), (INK, *_SERIES), strict=False):
        axes.plot(contexts, [value / _GIGA for value in values], color=colour, label=title,
                  linewidth=2.2 if title == "all" else 1.6)  # fmt: skip
    for stage in stages:
        axes.axvline(stage, color=GRID, linewidth=1.4, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_log_ticks(axes)
    axes.set_xticks(contexts, [f"{context / 1024:g}K" if context >= 1024 else str(context) for context in contexts])
    axes.minorticks_off()
    axes.margins(x=0.02)
    axes.set_xlabel("tokens of context; lines mark the curriculum's", color=INK, fontsize=9)
    axes.set_ylabel("GFLOP a token, forward and backward", color=INK, fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=6, fontsize=8, frameon=False,
                  labelcolor=INK)  # fmt: skip
    return figure


def _panel(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # most of a second that the terminal's tables need not spend

    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    style_axes(axes, grid="y")
    return figure, axes


def _limit_line(draw: Callable[..., object], value: float) -> None:
    draw(value, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)


def _plain_log_ticks(axes: Axes) -> None:
    """1, 2, 5, 10, ... as numbers, no powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def _days(option: Option) -> float:
    return option.training_hours / _HOURS_PER_DAY


def _short_name(option: Option) -> str:
    return option.name if len(option.name) <= 44 else option.name[:43] + "…"
