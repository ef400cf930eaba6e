"""Training on rows that are split over several processes: each holds the whole model and one slice of every row.

Attention exchanges heads for tokens (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509); linear mixers exchange
one decay and one state a slice (as in LASP-2, Sun et al. 2025, arXiv:2502.07563), forwards and, for the gradient,
backwards; short convolutions receive the few inputs before the slice. Everything else is a token's own affair.
"""

from __future__ import annotations

from model.sequence_parallel.context import SequenceParallel, check_sequence_parallel
from model.sequence_parallel.slices import own_slice, slice_batch

__all__ = ["SequenceParallel", "check_sequence_parallel", "own_slice", "slice_batch"]
