"""What a training pipeline will take, before anything is spent: parameters, FLOPs, memory, hours and dollars.

Public surface: `plan`; `PlanRequest` (with `Assumptions`, `CorpusFacts`, `Machine`, `MeasuredRate`) goes in,
`BudgetPlan` (with its parts) comes out. `ladder` recomputes the founding ladder; `inference_cost` prices generating.
"""

from tasks.planning.inference import InferenceCost, inference_cost
from tasks.planning.ladder import FOUNDING_LADDER, FoundingRung, LadderRung, ladder
from tasks.planning.parameters import count_parameters
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
    "FOUNDING_LADDER",
    "Assumptions",
    "BudgetPlan",
    "CorpusFacts",
    "CorpusPlan",
    "CostLines",
    "FoundingRung",
    "InferenceCost",
    "LadderRung",
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
    "count_parameters",
    "inference_cost",
    "ladder",
    "plan",
]
