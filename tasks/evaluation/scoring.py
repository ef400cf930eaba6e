"""The evaluation's questions, put to any model of the contract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.interface import Continuation, ModelInterface
from tasks.evaluation.language_model import FloatArray, IntArray


class InterfaceScorer:
    """A `ModelInterface`, whatever its file and runtime, as a `LanguageModel`."""

    def __init__(self, model: ModelInterface) -> None:
        self.model = model

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        """See `LanguageModel`."""
        return [-scores for scores in self.model.score_tokens([row.tolist() for row in rows])]

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        """See `LanguageModel`. A context's candidates stand together, so that it can be read once."""
        asked = [
            Continuation(context, tokens)
            for context, row in zip(contexts.tolist(), candidates, strict=True)
            for tokens in row
        ]
        scores = self.model.score_continuations(asked)
        return -np.array([score.log_likelihood for score in scores]).reshape(len(contexts), -1)
