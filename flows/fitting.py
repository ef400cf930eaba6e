"""`sam2 fit`: the ways to train a model within a GPU's memory, as rows and as a table."""

from __future__ import annotations

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


def show_fitting(rows: list[dict[str, Any]], context: int, gpus: int, gpu_gb: float) -> Table | Group | str:
    """The rows as a table, with what they count and what they do not below."""
    if not rows:
        return f"Nothing makes rows of {context:,} tokens fit {gpus} x {gpu_gb:g} GB."
    table = Table(box=None)
    table.add_column("settings", min_width=24)
    for heading in ("GPU GB", "states", "activations", "buffers", "CPU GB", "slower"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        part = row["gpu_bytes"]
        figures = (
            row["gpu_total_bytes"],
            sum(part[name] for name in ("weights", "gradients", "master_weights", "moments")),
            part["kept"] + part["working"],
            part["communication"],
            row["cpu_total_bytes"],
        )
        table.add_row(
            ", ".join(row["measures"]), *(f"{figure / _GB:,.1f}" for figure in figures), f"{row['slowdown']:.0%}"
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
