"""The data order under its first name: see `tasks.training.data_order`."""

from tasks.training.data_order import MIXTURE_ROUND_ROWS, Batch, BatchPlan, Sampler

__all__ = ["MIXTURE_ROUND_ROWS", "Batch", "BatchPlan", "Sampler"]
