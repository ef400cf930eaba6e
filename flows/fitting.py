"""`sam2 fit`: the ways to train a model within a GPU's memory, as rows and as a table.

`python -m flows.fitting MODEL` prints the tables of docs/long_context.md.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Group
from rich.table import Table

from flows.memory_check import settings
from model import preset
from model.sizing import WayToFit, ways_to_fit

_GB = 1e9


def fitting_rows(
    model: str, context: int, gpus: int, gpu_gb: float, cpu_gb: float | None = None, *, fused: bool = True
) -> list[dict[str, Any]]:
    """Every way to fit, the cheapest first, as plain data; raises the model's ConfigurationError for no preset."""
    cpu_bytes = None if cpu_gb is None else cpu_gb * _GB
    found = ways_to_fit(preset(model), context, gpu_gb * _GB, gpus, cpu_bytes=cpu_bytes, fused=fused)
    return [_row(way, gpus) for way in found]


def _byte_figures(row: dict[str, Any]) -> tuple[int, ...]:
    """Bytes of a way as tables show them: a GPU's total, its states, activations and buffers, the processors' total."""
    part = row["gpu_bytes"]
    return (
        row["gpu_total_bytes"],
        sum(part[name] for name in ("weights", "gradients", "master_weights", "moments")),
        part["kept"] + part["working"],
        part["communication"],
        row["cpu_total_bytes"],
    )


def show_fitting(rows: list[dict[str, Any]], context: int, gpus: int, gpu_gb: float) -> Table | Group | str:
    """The rows as a table, with what they count and what they do not below."""
    if not rows:
        return f"Nothing makes rows of {context:,} tokens fit {gpus} x {gpu_gb:g} GB."
    table = Table(box=None)
    table.add_column("settings", min_width=24)
    for heading in ("GPU GB", "states", "activations", "buffers", "CPU GB", "slower"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            ", ".join(row["measures"]),
            *(f"{figure / _GB:,.1f}" for figure in _byte_figures(row)),
            f"{row['slowdown']:.0%}",
        )
    note = (
        "Tensors only: leave 5-10% of a GPU to CUDA, NCCL and fragments. CPU memory is that of all GPUs together. "
        "Times are estimates from assumed rates, with nothing overlapped."
    )
    return Group(table, note)


def _row(way: WayToFit, gpus: int) -> dict[str, Any]:
    memory = way.memory
    names = ("weights", "gradients", "master_weights", "moments", "communication", "kept", "working")
    return {
        "measures": list(way.placement.measures),
        "settings": settings(way.placement),
        "gpu_total_bytes": memory.total,
        "gpu_bytes": {name: getattr(memory, name) for name in names},
        "fullest_phase": memory.phase,
        "cpu_total_bytes": memory.cpu_total * gpus,
        "cpu_bytes": {name: size * gpus for name, size in memory.cpu.items()},
        "slowdown": round(way.slowdown, 4),
    }


def _markdown(
    model: str, contexts: tuple[int, ...] = (4096, 8192, 16_384, 32_768, 65_536, 100_000, 102_400), gpu_gb: float = 80.0
) -> str:
    """A table for one GPU and one for eight: the cheapest way for each context."""
    head = (
        "| context | settings | GPU GB | states | activations | buffers | CPU GB | slower |\n"
        "|--:|---|--:|--:|--:|--:|--:|--:|"
    )
    tables = []
    for gpus in (1, 8):
        lines = [f"{gpus} x {gpu_gb:g} GB\n", head]
        for context in contexts:
            row = fitting_rows(model, context, gpus, gpu_gb)[0]
            cells = " | ".join(f"{figure / _GB:.1f}" for figure in _byte_figures(row))
            lines.append(f"| {context:,} | {', '.join(row['measures'])} | {cells} | {row['slowdown']:.0%} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


if __name__ == "__main__":
    sys.stdout.write(_markdown(sys.argv[1]) + "\n")
