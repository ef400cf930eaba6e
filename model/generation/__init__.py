"""Text from a model: prompts are read in segments, then written to a token at a time, in batches of any lengths.

`generate` and `stream` are for callers with a list of prompts, `RunningBatch` for those whose requests come and go.
"""

from model.generation.batch import FinishReason, GenerationRequest, NewToken, RunningBatch
from model.generation.prefill import SEGMENT_TOKENS, prefill, resume, rewind
from model.generation.requests import (
    GeneratedSequence,
    after_seconds,
    generate,
    generate_sequences,
    stream,
    stream_requests,
)
from model.generation.sampling import GREEDY, SamplingConfig, sample

__all__ = [
    "GREEDY",
    "SEGMENT_TOKENS",
    "FinishReason",
    "GeneratedSequence",
    "GenerationRequest",
    "NewToken",
    "RunningBatch",
    "SamplingConfig",
    "after_seconds",
    "generate",
    "generate_sequences",
    "prefill",
    "resume",
    "rewind",
    "sample",
    "stream",
    "stream_requests",
]
