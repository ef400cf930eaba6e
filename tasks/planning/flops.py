"""FLOPs of the curriculum: a token's by type of layer at each stage's context, and the sums."""

from __future__ import annotations

from model.sizing import training_flops_per_token
from tasks.planning.plan import StageFlops
from tasks.training import TrainingStageConfig


def stage_flops(stage: TrainingStageConfig) -> StageFlops:
    """FLOPs of one stage; what the backward pass computes again is told apart.

    Recomputing a block takes its forward pass, a third of forward and backward; the head's is not computed again. A
    feed-forward taken in parts is computed once more by itself.
    """
    flops = training_flops_per_token(stage.stage_model, stage.context_tokens)
    recomputed = (flops.total - flops.head) / 3 if stage.gradient_checkpointing else 0.0
    if stage.feed_forward_chunk_tokens is not None:
        recomputed += flops.feed_forward / 3
    return StageFlops(
        stage=stage.name,
        context_tokens=stage.context_tokens,
        tokens=stage.steps * stage.batch_tokens,
        projections=flops.mixer_projections,
        linear_mixing={kind: work for kind, work in flops.mixing.items() if kind != "attention"},
        attention_quadratic=flops.mixing.get("attention", 0.0),
        feed_forward=flops.feed_forward,
        head=flops.head,
        recomputed=recomputed,
    )
