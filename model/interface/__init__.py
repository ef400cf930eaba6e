"""One contract over every file a model can be in: our checkpoints, int8 and GGUF.

Public surface: `open_model`, `ModelInterface` and the values it takes and returns.
"""

from model.interface.contract import (
    Completion,
    Continuation,
    ContinuationScore,
    GenerationSettings,
    Health,
    ModelFormat,
    ModelInfo,
    ModelInterface,
    Prompt,
    TextPiece,
    TextScore,
)
from model.interface.opening import Runtime, open_model

__all__ = [
    "Completion",
    "Continuation",
    "ContinuationScore",
    "GenerationSettings",
    "Health",
    "ModelFormat",
    "ModelInfo",
    "ModelInterface",
    "Prompt",
    "Runtime",
    "TextPiece",
    "TextScore",
    "open_model",
]
