"""One of torchrun's ranks that trains several jobs in turn, so that a test pays for starting DeepSpeed once.

Afterwards the losses around a roll-back are left beside the first job, in `roll-backs.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tasks.training import TrainingStageConfig
from tasks.training.checkpoints import CheckpointStore, RetentionPolicy
from tasks.training.engine import TrainingEngine, import_deepspeed, start_distributed
from tasks.training.job import TrainingJob
from tasks.training.trainer import train
from tests.tasks.training.conftest import stage_config
from tests.tasks.training.random_batches import random_batch

ROLL_BACKS = "roll-backs.json"


def shard_small_weights_too(config: TrainingStageConfig) -> dict[str, Any]:
    """DeepSpeed's settings with every weight cut up by ZeRO-3, as a large model's are: it spares small ones."""
    settings = deepspeed_config(config)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


deepspeed_config = TrainingStageConfig.deepspeed_config
TrainingStageConfig.deepspeed_config = shard_small_weights_too  # type: ignore[method-assign]


def losses_around_a_roll_back(zero_stage: int, directory: Path) -> list[list[float]]:
    """Two updates' losses, and those of the same updates after going back before them in the same engine."""
    config = stage_config(ranks=2, zero_stage=zero_stage, batch_tokens=128, micro_batch=2)
    engine = TrainingEngine(config, placement, deepspeed)
    store = CheckpointStore(directory / f"roll-back-{zero_stage}", None, placement, RetentionPolicy(), print)
    update(engine, 1)
    fragments = engine.state.fragments(placement.rank, placement.ranks)
    store.save(1, fragments, {"optimizer_step": 1}, wait=True)
    before = [update(engine, seed) for seed in (2, 3)]
    checkpoint = store.load_at_or_before(1)
    assert checkpoint is not None
    engine.state.restore_weights(checkpoint)
    engine.state.restore_moments(checkpoint, 1)
    return [before, [update(engine, seed) for seed in (2, 3)]]


def update(engine: TrainingEngine, seed: int) -> float:
    loss = engine.forward_backward(random_batch(10 * seed + placement.rank), 1.0)
    engine.update(1e-2)
    return float(loss)


jobs = [TrainingJob.read(Path(path)) for path in sys.argv[1:]]
deepspeed = import_deepspeed()
placement = start_distributed(jobs[0].config, deepspeed)
codes = [train(job, placement, deepspeed) for job in jobs]
first_path = Path(sys.argv[1])
losses = {f"zero-{stage}": losses_around_a_roll_back(stage, first_path.parent) for stage in (2, 3)}
if placement.is_first:
    first_path.with_name(ROLL_BACKS).write_text(json.dumps(losses))
torch.distributed.destroy_process_group()
sys.exit(max(codes))
