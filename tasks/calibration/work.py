"""The work of one micro-batch on one rank, in the two parts that grow differently with the context."""

from __future__ import annotations

from dataclasses import dataclass

from model import ModelConfig
from model.sizing import training_flops_per_token
from tasks.calibration.setup import Variant

# Forward, and the backward pass with its two products for each of the forward's.
_PASSES = 3


@dataclass(frozen=True)
class Work:
    """FLOPs that a rank executes for one micro-batch, recomputed activations counted.

    by_token: of projections, feed-forwards, head and recurrent mixers: the same for a token of any context.
    by_pair: of attention's scores and weighted values, which grow with the context.
    """

    by_token: float
    by_pair: float


def work_of(model: ModelConfig, context_tokens: int, rows: int, variant: Variant) -> Work:
    """Of `rows` rows of `context_tokens` tokens, each row one document.

    A recomputed part runs forward once more: a third of its three passes.
    """
    tokens = rows * context_tokens / variant.sequence_parallel
    flops = training_flops_per_token(model, context_tokens)
    again = 1 + variant.gradient_checkpointing / _PASSES
    chunked = variant.feed_forward_chunk_tokens is not None
    pairs = flops.mixing.get("attention", 0.0)
    recurrent = sum(flops.mixing.values()) - pairs
    by_token = (
        flops.head
        + again * (sum(flops.mixer_projections.values()) + recurrent)
        + (again + chunked / _PASSES) * flops.feed_forward
    )
    return Work(by_token=tokens * by_token, by_pair=tokens * again * pairs)


def useful_flops(model: ModelConfig, context_tokens: int, tokens: float) -> float:
    """FLOPs that `tokens` tokens need, nothing recomputed: what utilisation is counted with."""
    return tokens * training_flops_per_token(model, context_tokens).total
