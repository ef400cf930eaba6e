"""Pictures of a risk simulation, each one PNG file, the same for the same figures.

Public surface: `plot_cost`, `plot_finish`, `plot_tornado`, `plot_mitigations`, `plot_interval`, `plot_gantt`,
`plot_returns`.
"""

from tasks.risk.plots.distributions import plot_cost, plot_finish
from tasks.risk.plots.gantt import plot_gantt
from tasks.risk.plots.interval import plot_interval
from tasks.risk.plots.returns import plot_returns
from tasks.risk.plots.tornado import plot_mitigations, plot_tornado

__all__ = [
    "plot_cost",
    "plot_finish",
    "plot_gantt",
    "plot_interval",
    "plot_mitigations",
    "plot_returns",
    "plot_tornado",
]
