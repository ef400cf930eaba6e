"""The DeepSpeed engine around the model: built from the seed, fed with batches, updated."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model import HybridLM
from model.sequence_parallel import SequenceParallel
from tasks.training.config import TrainingStageConfig
from tasks.training.data_order import Batch
from tasks.training.optimizer import MuonWithAdamW, adamw
from tasks.training.sharded_state import ShardedState


def import_deepspeed() -> ModuleType:
    """DeepSpeed, quietly, and without what takes long and is not used.

    Its autotuner imports MLflow (3 seconds) if there is one. Its list of compatible operations is made by running
    compilers, and on CPU it leads to building a shared-memory operation for two minutes; gloo does without.
    """
    # DeepSpeed still calls names that torch is about to rename, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = None  # type: ignore[assignment] # makes `import mlflow` raise ImportError
    try:
        import deepspeed
    finally:
        if absent:
            del sys.modules["mlflow"]
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    return deepspeed  # type: ignore[no-any-return] # untyped package


@dataclass(frozen=True)
class Placement:
    """Which of the processes this is, and where it computes."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float | Tensor) -> list[float]:
        """Each value summed over all ranks: one collective, one synchronisation with the device."""
        parts = [torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values]
        total = torch.stack(parts)
        if self.ranks > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]


def start_distributed(config: TrainingStageConfig, deepspeed: ModuleType) -> Placement:
    """Join the other ranks, as told by the launcher's environment (one process is a group of its own)."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    torch.set_num_threads(config.threads_per_rank)
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl" if on_cuda else "gloo", auto_mpi_discovery=False, verbose=False)
    return Placement(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)


class LossModule(nn.Module):
    """The loss as a forward pass: DeepSpeed hooks `forward`, and ZeRO-3 gathers weights there."""

    def __init__(self, model: HybridLM, sequence_parallel: SequenceParallel | None = None) -> None:
        super().__init__()
        self.model = model
        self._sequence_parallel = sequence_parallel

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss(
            batch.tokens, batch.targets, batch.document_ids, sequence_parallel=self._sequence_parallel
        )


class TrainingEngine:
    """A model, its optimiser and DeepSpeed: forward and backward, update, evaluate.

    state: this rank's part of the weights and moments, to save and restore.
    """

    def __init__(self, config: TrainingStageConfig, placement: Placement, deepspeed: ModuleType) -> None:
        """Build the model from the seed. Every rank calls this, and every method, at the same point."""
        self._config = config
        self._placement = placement
        torch.manual_seed(config.seed)
        model = HybridLM(config.stage_model)
        model.gradient_checkpointing = config.gradient_checkpointing
        model.offload_activations = config.offload_activations
        model.feed_forward_chunk_tokens = config.feed_forward_chunk_tokens
        shared = SequenceParallel.of_neighbours(config.sequence_parallel) if config.sequence_parallel > 1 else None
        loss = LossModule(model, shared)
        if config.zero_stage == 3:
            # The loss takes the head's gradient itself, after the head's own hooks have let go of its weight.
            deepspeed.zero.register_external_parameter(loss, model.lm_head.weight)
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=loss, optimizer=_optimizer(model, config), config=config.deepspeed_config()
        )
        # By the names of HybridLM; a tied head appears once.
        self._parameters: dict[str, Any] = dict(self._engine.module.model.named_parameters())
        self.state = ShardedState(self._engine, self._parameters, config.zero_stage, config.optimizer)

    def forward_backward(self, batch: Batch, weight: float) -> Tensor:
        """Add the gradient of `weight` x the mean loss of `batch`; return that product, a scalar."""
        loss = self._engine(batch.to(self._placement.device)) * weight
        self._engine.backward(loss)
        detached: Tensor = loss.detach()
        return detached

    def pass_over(self) -> None:
        """Close a micro-batch that is not the last of its update."""
        self._engine.step()

    def update(self, learning_rate: float) -> float:
        """Close the last micro-batch: clip the gradient and update; return the norm it had before."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = math.nan
        if not self._config.zero_stage:
            norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._config.gradient_clip))
        self._engine.step()
        self.state.optimizer_step += 1
        return float(self._engine.get_global_grad_norm()) if self._config.zero_stage else norm

    def discard(self) -> None:
        """Close an update that must not count. Weights and moments are of no use until they are restored."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = 0.0
        self._engine.step()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Summed loss of the batch's targets, a scalar in nats."""
        loss: Tensor = self._engine(batch.to(self._placement.device))
        return loss * batch.target_count


def _optimizer(model: HybridLM, config: TrainingStageConfig) -> Optimizer:
    make = MuonWithAdamW if config.optimizer == "muon" else adamw
    return make(model, betas=config.betas, epsilon=config.epsilon, weight_decay=config.weight_decay)
