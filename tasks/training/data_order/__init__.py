"""Which tokens each update trains on: sampler, mixture, packing, and how a batch is dealt to ranks.

Public surface: `Sampler` and its `GroupStatistics`, `LongDocuments`, `Packing`, `Batch`, `BatchPlan`, `BatchNumbers`,
`Documents`, `Reading`, `MIXTURE_ROUND_ROWS`, `NO_TARGET`.
"""

from tasks.training.data_order.batch import NO_TARGET, Batch
from tasks.training.data_order.batch_plan import BatchNumbers, BatchPlan
from tasks.training.data_order.long_documents import LongDocuments
from tasks.training.data_order.mixture import MIXTURE_ROUND_ROWS
from tasks.training.data_order.sampler import GroupStatistics, Packing, Sampler
from tasks.training.data_order.spans import Documents, Reading

__all__ = [
    "MIXTURE_ROUND_ROWS",
    "NO_TARGET",
    "Batch",
    "BatchNumbers",
    "BatchPlan",
    "Documents",
    "GroupStatistics",
    "LongDocuments",
    "Packing",
    "Reading",
    "Sampler",
]
