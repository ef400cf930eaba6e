"""The engine's state as fragments: all of it, and restored exactly in the same process and in another engine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.errors import ConfigurationError
from tasks.training.checkpoints import CheckpointStore, RetentionPolicy
from tasks.training.engine import Placement, TrainingEngine
from tests.tasks.training.conftest import MODEL, stage_config
from tests.tasks.training.random_batches import random_batch

ENGINES: dict[str, dict[str, Any]] = {
    "zero-0": {},
    "muon": {"optimizer": "muon"},
    "zero-1-bf16": {"zero_stage": 1, "precision": "bf16"},
    "zero-2": {"zero_stage": 2},
    "zero-2-offload": {"zero_stage": 2, "offload_optimizer": True},
    "zero-3": {"zero_stage": 3},
    "zero-3-offload": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
}


def make_engine(process_group: tuple[Placement, ModuleType], name: str) -> TrainingEngine:
    config = stage_config(batch_tokens=64, micro_batch=2, **ENGINES[name])
    return TrainingEngine(config, *process_group)


def train(engine: TrainingEngine, *seeds: int) -> list[float]:
    losses = []
    for seed in seeds:
        losses.append(float(engine.forward_backward(random_batch(seed), 1.0)))
        engine.update(1e-2)
    return losses


def values(engine: TrainingEngine) -> dict[str, Tensor]:
    return {fragment.tensor: fragment.values.clone() for fragment in engine.state.fragments(0, 1)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def save(store: CheckpointStore, engine: TrainingEngine, step: int) -> None:
    fragments = engine.state.fragments(0, 1)
    store.save(step, fragments, {"optimizer_step": engine.state.optimizer_step}, wait=True)


def go_back(store: CheckpointStore, engine: TrainingEngine, step: int) -> None:
    checkpoint = store.load_at_or_before(step)
    assert checkpoint is not None
    assert checkpoint.step == step
    engine.state.restore_weights(checkpoint)
    engine.state.restore_moments(checkpoint, checkpoint.progress["optimizer_step"])


@pytest.fixture
def store(process_group: tuple[Placement, ModuleType], tmp_path: Any) -> CheckpointStore:
    return CheckpointStore(tmp_path, None, process_group[0], RetentionPolicy(newest=9), pytest.fail)


@pytest.mark.parametrize("name", ENGINES)
def test_state_comes_back_bit_for_bit(
    process_group: tuple[Placement, ModuleType], store: CheckpointStore, name: str
) -> None:
    """Back in the same engine before and after its first update, a ruined one; and on in a fresh engine."""
    engine = make_engine(process_group, name)
    save(store, engine, 0)
    first = train(engine, 1)
    save(store, engine, 1)
    after_one = values(engine)
    rest = train(engine, 2, 3)
    after_three = values(engine)
    names = {fragment.partition(".")[0] for fragment in after_three}
    assert names == {"weights", "exp_avg", "exp_avg_sq"} | ({"momentum_buffer"} if name == "muon" else set())

    engine.forward_backward(random_batch(4), float("nan"))
    engine.discard()
    for fragment in engine.state.fragments(0, 1):
        fragment.values.detach().fill_(float("nan"))
    go_back(store, engine, 1)
    assert equal(values(engine), after_one)
    assert train(engine, 2, 3) == rest
    assert equal(values(engine), after_three)
    go_back(store, engine, 0)
    assert {fragment.partition(".")[0] for fragment in values(engine)} == {"weights"}
    assert train(engine, 1) == first
    assert equal(values(engine), after_one), "moments begin anew"

    save(store, engine, 1)
    another = make_engine(process_group, name)
    go_back(store, another, 1)
    assert train(another, 2, 3) == rest
    assert equal(values(another), after_three)


def test_another_models_state_is_refused(process_group: tuple[Placement, ModuleType], store: CheckpointStore) -> None:
    save(store, make_engine(process_group, "zero-0"), 0)
    checkpoint = store.load_latest()
    assert checkpoint is not None
    placement, deepspeed = process_group
    wider = stage_config(batch_tokens=64, model=MODEL.model_dump() | {"feed_forward_width": 96})
    deeper = stage_config(batch_tokens=64, model=MODEL.model_dump() | {"layer_count": 4})
    with pytest.raises(ConfigurationError, match=r"of the checkpoint to continue from is \("):
        TrainingEngine(wider, placement, deepspeed).state.restore_weights(checkpoint)
    with pytest.raises(ConfigurationError, match=r"lacks \d+ tensors"):
        TrainingEngine(deeper, placement, deepspeed).state.restore_weights(checkpoint)
