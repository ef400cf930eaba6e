"""Batches of random tokens for the miniature model, the same for the same seed."""

from __future__ import annotations

import torch

from tasks.training.data_order import Batch


def random_batch(seed: int) -> Batch:
    """Two rows of 32 tokens, of one document each."""
    tokens = torch.randint(1, 64, (2, 33), generator=torch.Generator().manual_seed(seed))
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.zeros(2, 32, dtype=torch.int64))
