"""What an evaluation asks of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class LanguageModel(Protocol):
    """Anything that gives likelihoods; a nat is minus the natural logarithm of a probability."""

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        """Nats of every token but the first of each row, given all tokens before it in the row."""
        ...

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        """Nats of each candidate as the continuation of its context. [batch, candidates]

        contexts: [batch, time]; candidates: for each context equally many token sequences.
        """
        ...
