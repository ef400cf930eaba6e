"""A small training state, stores of it, and S3 on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.training.checkpoints import CheckpointStore, Fragment, RetentionPolicy, deal, moment_key, weight_key
from tasks.training.checkpoints.fragments import is_weight
from tests.infra.conftest import moto_bucket, moto_endpoint
from tests.tasks.training.checkpoints.rank_threads import ThreadRank, alone

__all__ = ["moto_bucket", "moto_endpoint"]

SHAPES = {"matrix": (3, 5), "vector": (4,)}


def whole_state(step: int) -> dict[str, Tensor]:
    """Weights and moments after `step` updates, by their names in a checkpoint."""
    state = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape) + 100 * number + step / 7
        state[weight_key(name)] = values
        state[moment_key("exp_avg", name)] = values * 0.1
        state[moment_key("exp_avg_sq", name)] = values * 0.01
    return state


def fragments(step: int, rank: int = 0, ranks: int = 1) -> list[Fragment]:
    """A rank's share of it: as much of the weights, and as much of the moments, as the others have."""
    whole = [Fragment(name, tuple(value.shape), 0, value) for name, value in whole_state(step).items()]
    weights = [fragment for fragment in whole if is_weight(fragment.tensor)]
    moments = [fragment for fragment in whole if not is_weight(fragment.tensor)]
    return [*deal(weights, rank, ranks), *deal(moments, rank, ranks)]


class Stores:
    """Makes stores that remember what they warn of."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warnings: list[str] = []

    def open(
        self, ranks: ThreadRank | None = None, remote: str | None = None, directory: Path | None = None, **policy: Any
    ) -> CheckpointStore:
        place = directory or self.directory
        retention = RetentionPolicy(**({"newest": 2, "best": False} | policy))
        return CheckpointStore(place, remote, ranks or alone(), retention, self.warnings.append)

    def save(self, store: CheckpointStore, step: int, wait: bool = True, **progress: Any) -> bool:
        """Save the state of `step` as the store's only rank."""
        series = {"history": [{"step": number} for number in range(step)]}
        return store.save(step, fragments(step), {"optimizer_step": step + 100} | progress, series, wait=wait)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path / "checkpoints")


def steps_in(directory: Path) -> list[int]:
    """Steps of the complete checkpoints in a directory."""
    return sorted(int(path.parent.name.removeprefix("step-")) for path in directory.glob("step-*/checkpoint.json"))


@contextmanager
def patched(monkeypatch: pytest.MonkeyPatch, target: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """A patch that ends before the test does."""
    with monkeypatch.context() as context:
        context.setattr(target, replacement)
        yield
