"""What data and checkpoints take: core hours from this project's own measured rates, bytes from their formats."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.plan import CorpusPlan
from tasks.planning.request import PlanRequest
from tasks.scale_out.estimate import Cluster, CorpusSize, StageRate, estimate_stage
from tasks.tokenization.token_shards import token_dtype
from tasks.training import TrainingStageConfig

RATES_SOURCE = (
    "MB of text a second and core measured by this project (docs/benchmarks.md): download 70, quality 11, "
    "deduplication 25, tokenization 30; shares and compression as in docs/scale_out.md"
)
_MEGABYTES_PER_CORE_SECOND = {"download": 70.0, "quality": 11.0, "deduplication": 25.0, "tokenization": 30.0}
#: Compressed Parquet, bytes a byte of text (docs/scale_out.md).
_COMPRESSED = 0.4
#: Of the text that reaches deduplication, what it leaves (docs/scale_out.md: 63 of 70%).
_DEDUPLICATION_KEEPS = 0.9
#: fp32 weights and AdamW's two moments.
CHECKPOINT_BYTES_PER_PARAMETER = 12
_WEIGHT_BYTES = 4
#: F16, Q8_0 (34 bytes for 32 weights) and Q4_K_M (4.85 bits a weight in llama.cpp's models).
_FORMAT_BYTES_PER_PARAMETER = 2 + 34 / 32 + 4.85 / 8
#: The best checkpoint and the one to roll back to stay beside the newest (`RetentionPolicy`).
_ALWAYS_KEPT = 2


def corpus_plan(request: PlanRequest, parameters: int) -> CorpusPlan:
    """What the pipeline around the training takes."""
    corpus = request.corpus
    filtered = corpus.kept_bytes / _DEDUPLICATION_KEEPS
    token_bytes = corpus.tokens * token_dtype(request.model.vocabulary_size).itemsize
    checkpoint = CHECKPOINT_BYTES_PER_PARAMETER * parameters
    kept = checkpoints_kept(request.stages)
    released = parameters * (_WEIGHT_BYTES + _FORMAT_BYTES_PER_PARAMETER)
    return CorpusPlan(
        fetched_bytes=corpus.fetched_bytes,
        kept_bytes=corpus.kept_bytes,
        token_bytes=token_bytes,
        core_hours=_core_hours(request, filtered),
        checkpoint_bytes=checkpoint,
        checkpoints_kept=kept,
        stored_bytes=_COMPRESSED * (corpus.fetched_bytes + filtered + corpus.kept_bytes)
        + token_bytes
        + checkpoint * kept
        + released,
        released_bytes=released,
        rates_source=RATES_SOURCE,
    )


def checkpoints_kept(stages: Sequence[TrainingStageConfig]) -> int:
    """Checkpoints at the fullest moment: one of every finished stage, and those that training keeps in the last."""
    finished = len(stages) - 1
    last = stages[-1]
    every = last.checkpoint_kept_every_steps
    return finished + last.checkpoints_kept + _ALWAYS_KEPT + (last.steps // every if every else 0)


def _core_hours(request: PlanRequest, filtered_bytes: float) -> dict[str, float]:
    """By data stage; network and machines are the offers', so one core of the benchmarks' speed is asked here."""
    reads = {
        "download": request.corpus.fetched_bytes,
        "quality": request.corpus.fetched_bytes,
        "deduplication": filtered_bytes,
        "tokenization": request.corpus.kept_bytes,
    }
    one_core = Cluster(nodes=1, cores_per_node=1, memory_gb_per_node=1, usd_per_node_hour=0,
                       core_speed=request.assumptions.core_speed)  # fmt: skip
    return {
        name: estimate_stage(StageRate(name, rate, 1.0, 0.0), CorpusSize(reads[name], 1.0), one_core).core_hours
        for name, rate in _MEGABYTES_PER_CORE_SECOND.items()
    }
