"""HGRN-2's forget gate and key."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Keeps 1 - key above zero, whose logarithm is needed, where a learned bound has shrunk to nothing.
LEAST_BOUND = 2.0**-23


def hgrn2_gate(forget: Tensor, lower_bound: Tensor | None) -> tuple[Tensor, Tensor]:
    """Key and log decay from the forget pre-activation, in float32 (Qin et al. 2024, arXiv:2404.07904, eq. 6-8).

    `forget` is `[batch, time, width]`, `lower_bound` `[width]` or None for zero. The decay is
    `a = lower_bound + (1 - lower_bound) sigmoid(forget)` and the key `1 - a`, computed as
    `(1 - lower_bound) sigmoid(-forget)`, which does not cancel.
    """
    forget = forget.float()
    key = torch.sigmoid(-forget)
    if lower_bound is None:
        return key, functional.logsigmoid(forget)
    key = key * (1 - lower_bound.clamp_min(LEAST_BOUND))
    return key, torch.log1p(-key)
