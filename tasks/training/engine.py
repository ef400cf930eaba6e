"""The DeepSpeed engine around the model, and its state as whole fp32 tensors whatever the ZeRO stage.

With ZeRO 1-3 the fp32 weights and AdamW's moments live in flat, sharded buffers. They are created here before
the first update (DeepSpeed would do so during it), so that restoring fills them in one way at every stage.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from infra.errors import ConfigurationError
from model import HybridLM
from tasks.training.checkpointing import TrainingState, cpu_copy
from tasks.training.config import TrainingStageConfig
from tasks.training.optimizer import MOMENTS, MuonWithAdamW, adamw, moment_keys
from tasks.training.sampler import Batch


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


class _Loss(nn.Module):
    """The loss as a forward pass: DeepSpeed hooks `forward`, and ZeRO-3 gathers weights there."""

    def __init__(self, model: HybridLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss(batch.tokens, batch.targets, batch.document_ids)


class TrainingEngine:
    """A model, its optimiser and DeepSpeed: forward and backward, update, evaluate, give and take the state."""

    def __init__(self, config: TrainingStageConfig, placement: Placement, deepspeed: ModuleType) -> None:
        """Build the model from the seed. Every rank calls this, and every method, at the same point."""
        self._config = config
        self._placement = placement
        self._utils = deepspeed.utils
        torch.manual_seed(config.seed)
        model = HybridLM(config.stage_model)
        model.gradient_checkpointing = config.gradient_checkpointing
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=_Loss(model), optimizer=_optimizer(model, config), config=config.deepspeed_config()
        )
        # By the names of HybridLM; a tied head appears once.
        self._parameters: dict[str, Any] = dict(self._engine.module.model.named_parameters())
        self._optimizer_step = 0
        if config.zero_stage:
            self._create_sharded_moments()

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
        self._optimizer_step += 1
        return float(self._engine.get_global_grad_norm()) if self._config.zero_stage else norm

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Summed loss of the batch's targets, a scalar in nats."""
        loss: Tensor = self._engine(batch.to(self._placement.device))
        return loss * batch.target_count

    def state(self, step: int) -> TrainingState | None:
        """Weights and moments as CPU copies on the first rank; None on the others, which must call this too."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            for key, tensor in self._whole_tensors(name, parameter):
                if self._placement.is_first:
                    (moments if key else weights)[f"{key}.{name}" if key else name] = cpu_copy(tensor)
        if not self._placement.is_first:
            return None
        return TrainingState(step, self._optimizer_step, weights, moments)

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Continue from `state`, exactly."""
        self.restore_weights(state.weights)
        self.restore_moments(state.moments, state.optimizer_step)

    @torch.no_grad()
    def restore_weights(self, weights: dict[str, Tensor]) -> None:
        """Set every parameter, in the precision of the passes and in the optimiser's fp32."""
        self._require(weights, list(self._parameters))
        for name, parameter in self._parameters.items():
            value = weights[name].to(self._placement.device)
            if self._config.zero_stage == 3:
                self._utils.safe_set_local_fp32_param(parameter, self._own_slice(parameter, value))
                parameter.ds_tensor.copy_(self._own_slice(parameter, value))
            else:
                parameter.copy_(value)
                if self._config.zero_stage:
                    self._utils.safe_set_full_fp32_param(parameter, value)

    @torch.no_grad()
    def restore_moments(self, moments: dict[str, Tensor], optimizer_step: int) -> None:
        """Set AdamW's moments and the number of updates its bias correction has seen."""
        self._optimizer_step = optimizer_step
        if optimizer_step == 0:
            return
        keys = {name: moment_keys(self._config.optimizer, name, p) for name, p in self._parameters.items()}
        self._require(moments, [f"{key}.{name}" for name in self._parameters for key in keys[name]])
        for name, parameter in self._parameters.items():
            values = {key: moments[f"{key}.{name}"].to(self._placement.device) for key in keys[name]}
            if not self._config.zero_stage:
                step = torch.tensor(float(optimizer_step))
                self._engine.optimizer.state[parameter] = {"step": step, **values}
                continue
            for key, value in values.items():
                if self._config.zero_stage == 3:
                    value = self._own_slice(parameter, value)
                    self._utils.safe_set_local_optimizer_state(parameter, value, key)
                else:
                    self._utils.safe_set_full_optimizer_state(parameter, value, key)
        for flat in self._flat_buffers() if self._config.zero_stage else ():
            self._engine.optimizer.optimizer.state[flat]["step"].fill_(float(optimizer_step))

    def _whole_tensors(self, name: str, parameter: Any) -> Iterator[tuple[str, Tensor]]:
        """("", weight), then (moment's key, moment) for each moment; moments only after the first update."""
        sharded = bool(self._config.zero_stage)
        yield "", self._utils.safe_get_full_fp32_param(parameter) if sharded else parameter
        if self._optimizer_step == 0:
            return
        for key in moment_keys(self._config.optimizer, name, parameter):
            if sharded:
                yield key, self._utils.safe_get_full_optimizer_state(parameter, key)
            else:
                yield key, self._engine.optimizer.state[parameter][key]

    def _create_sharded_moments(self) -> None:
        wrapper = self._engine.optimizer
        for flat in self._flat_buffers():
            wrapper.optimizer.state[flat] = {
                "step": torch.tensor(0.0),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        if self._config.zero_stage < 3:
            wrapper._lazy_init_hp_params_optimizer_state()

    def _flat_buffers(self) -> list[Tensor]:
        """The fp32 buffers that the wrapped AdamW really updates."""
        wrapper = self._engine.optimizer
        if self._config.zero_stage == 3:
            return list(wrapper.fp32_partitioned_groups_flat)
        return [flat for group in wrapper.optimizer.param_groups for flat in group["params"]]

    def _own_slice(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's part of a whole tensor under ZeRO-3: equal parts, the last one padded with zeros."""
        size = parameter.ds_tensor.numel()
        padded = value.new_zeros(size * self._placement.ranks)
        padded[: value.numel()] = value.flatten()
        return padded.narrow(0, size * self._placement.rank, size)

    @staticmethod
    def _require(tensors: dict[str, Tensor], names: list[str]) -> None:
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ConfigurationError(
                f"the checkpoint to continue from lacks {len(missing)} tensors, '{missing[0]}' for one.",
                "continue with the model and the optimizer it was made with, or set carry_optimizer to false.",
            )


def _optimizer(model: HybridLM, config: TrainingStageConfig) -> Optimizer:
    make = MuonWithAdamW if config.optimizer == "muon" else adamw
    return make(model, betas=config.betas, epsilon=config.epsilon, weight_decay=config.weight_decay)
