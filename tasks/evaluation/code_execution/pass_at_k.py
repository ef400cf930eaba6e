"""pass@k: the chance that at least one of k samples is right."""

from __future__ import annotations

import math


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate from `correct` of `samples` drawn: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, equation 1).

    Exact in integers, so no product of ratios is needed to keep it stable.

    Raises:
        ValueError: not 0 <= correct <= samples, or not 1 <= k <= samples.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {correct} correct among {samples} samples is not defined.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
