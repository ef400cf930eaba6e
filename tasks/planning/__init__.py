"""What a training pipeline will take, before anything is spent: parameters, FLOPs, memory, hours and dollars.

Public surface: `plan`; `PlanRequest` (with `Assumptions`, `CorpusFacts`, `Machine`, `MeasuredRate`) goes in,
`BudgetPlan` (with its parts) comes out.
"""

from tasks.planning.plan import (
    BudgetPlan,
    CorpusPlan,
    CostLines,
    MemoryRow,
    Option,
    ParameterTable,
    Rejection,
    Remedy,
    StageFlops,
    StageTime,
)
from tasks.planning.planner import plan
from tasks.planning.request import Assumptions, CorpusFacts, Machine, MeasuredRate, PlanRequest

__all__ = [
    "Assumptions",
    "BudgetPlan",
    "CorpusFacts",
    "CorpusPlan",
    "CostLines",
    "Machine",
    "MeasuredRate",
    "MemoryRow",
    "Option",
    "ParameterTable",
    "PlanRequest",
    "Rejection",
    "Remedy",
    "StageFlops",
    "StageTime",
    "plan",
]
