"""How long a checkpoint holds training up: ours against writing at once and PyTorch's own asynchronous checkpoints.

    python -m benchmarks.checkpoint_stall [--model tiny] [--tokens 1024] [--rounds 9] [--directory /tmp]

One model with AdamW's moments in fp32 is saved in turn, after an update each, by our store, by
`torch.distributed.checkpoint.async_save` (with its copies kept for the next time, as ours are), by
`safetensors.save_file` and by `torch.save`, the last two followed by fsync, which the others do too. The time until
the call returns is what training stands still for. Then an update is made while the writing goes on, to show what
that costs, and the writing is waited for. Other load only ever adds time: lower quartiles are compared. The first
round, in which memory is taken, is told apart.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.quiet import apply_quiet_environment

apply_quiet_environment()  # before torch is loaded: OpenMP reads how long to spin only then

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.distributed.checkpoint import FileSystemWriter, async_save  # noqa: E402
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # noqa: E402

from model import HybridLM, preset  # noqa: E402
from tasks.training.checkpoints import (  # noqa: E402
    CheckpointStore,
    Fragment,
    RetentionPolicy,
    moment_key,
    weight_key,
)
from tasks.training.optimizer import MOMENTS, adamw  # noqa: E402

CHECKPOINT_SECONDS = 600
"""The trainer's longest time between two checkpoints."""


class Training:
    """A model that makes updates on random tokens."""

    def __init__(self, model_name: str, tokens: int, context: int) -> None:
        config = preset(model_name)
        self._model = HybridLM(config)
        self._optimizer = adamw(self._model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1)
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(0, config.vocabulary_size, (max(1, tokens // context), context + 1), generator=generator)
        self._tokens, self._targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def update(self) -> None:
        loss: Tensor = self._model.loss(self._tokens, self._targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, not copied."""
        state = {}
        for name, parameter in self._model.named_parameters():
            state[weight_key(name)] = parameter.detach()
            for moment in MOMENTS:
                state[moment_key(moment, name)] = self._optimizer.state[parameter][moment]
        return state


@dataclass(frozen=True)
class Alone:
    """One process that is all there is."""

    rank: int = 0
    ranks: int = 1

    def sum(self, *values: float) -> list[float]:
        return list(values)


class Ours:
    """The trainer's store."""

    def __init__(self, directory: Path) -> None:
        self._store = CheckpointStore(directory, None, Alone(), RetentionPolicy(newest=1), self._fail)

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        fragments = [Fragment(name, tuple(tensor.shape), 0, tensor) for name, tensor in state.items()]
        assert self._store.save(step, fragments, {"optimizer_step": step})

    def wait(self) -> None:
        self._store.wait()

    @staticmethod
    def _fail(text: str) -> None:
        raise RuntimeError(text)


class Dcp:
    """torch.distributed.checkpoint, asynchronous, with copies that are used again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # On CPU it can neither lock pages nor copy in another thread; its copies in memory are used again.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._future: Any = None

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        writer = FileSystemWriter(self._directory / str(step))
        self._future = async_save(state, storage_writer=writer, async_stager=self._stager, no_dist=True)

    def wait(self) -> None:
        self._future.result()
        for path in sorted(self._directory.iterdir())[:-1]:
            shutil.rmtree(path)


class AtOnce:
    """A function that writes one file before it returns."""

    def __init__(self, directory: Path, write: Callable[[dict[str, Tensor], Path], None]) -> None:
        directory.mkdir(parents=True)
        self._path = directory / "state"
        self._write = write

    def save(self, step: int, state: dict[str, Tensor]) -> None:
        self._write(state, self._path)
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())

    def wait(self) -> None:
        """It has been written."""


@dataclass
class Measured:
    """Seconds of each round: the call, the update made meanwhile, and all until it is on disk."""

    stalls: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)


def seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(training: Training, writers: dict[str, Any], rounds: int) -> tuple[dict[str, Measured], list[float]]:
    """What each writer took, and the updates made while nothing was written."""
    measured = {name: Measured() for name in writers}
    updates: list[float] = []
    for step in range(1, rounds + 1):
        for name, writer in writers.items():
            updates.append(seconds_of(training.update))
            state = training.state()
            started = time.perf_counter()
            measured[name].stalls.append(seconds_of(lambda: writer.save(step, state)))  # noqa: B023 # called at once
            measured[name].updates.append(seconds_of(training.update))
            writer.wait()
            measured[name].durations.append(time.perf_counter() - started)
    return measured, updates


def quartile(values: list[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


def report(measured: dict[str, Measured], update: float) -> None:
    ours = quartile(measured["ours"].stalls[1:])
    print(f"{'':24}{'first':>10}{'later':>10}{'of an':>9}{'every':>10}{'ours is':>12}{'update':>12}")
    print(f"{'':24}{'stall, ms':>10}{'stall, ms':>10}{'update':>9}{'10 min':>10}{'shorter':>12}{'meanwhile':>12}")
    for name, taken in measured.items():
        stall = quartile(taken.stalls[1:])
        print(
            f"{name:24}{1000 * taken.stalls[0]:10.1f}{1000 * stall:10.1f}{stall / update:9.1%}"
            f"{stall / CHECKPOINT_SECONDS:10.4%}{stall / ours:11.1f}x{quartile(taken.updates[1:]) / update:11.2f}x"
        )


def main() -> None:
    """Measure and print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="one of the presets")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens an update")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, default=None, help="where to write; left out: a temporary directory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module="torch.distributed")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    directory = Path(tempfile.mkdtemp(dir=arguments.directory))
    try:
        training = Training(arguments.model, arguments.tokens, arguments.context)
        training.update()
        writers = {
            "ours": Ours(directory / "ours"),
            "torch.distributed async": Dcp(directory / "dcp"),
            "safetensors, at once": AtOnce(directory / "safetensors", lambda state, path: save_file(state, path)),
            "torch.save, at once": AtOnce(directory / "torch", lambda state, path: torch.save(state, path)),
        }
        measured, updates = measure(training, writers, arguments.rounds)
        state_bytes = sum(tensor.nbytes for tensor in training.state().values())
    finally:
        shutil.rmtree(directory)
    update = quartile(updates)
    print(
        f"model {arguments.model}, state of {state_bytes / 1e6:,.0f} MB, updates of {arguments.tokens} tokens "
        f"in {update:.2f} s, {arguments.threads} threads"
    )
    report(measured, update)


if __name__ == "__main__":
    main()
