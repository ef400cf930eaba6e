"""Trains adapters: `python -m tasks.finetuning.trainer JOB.json`, alone or as one of torchrun's ranks.

The loop, its checkpoints and its self-defence are the training stage's; here the model is a loaded one with adapters,
which alone are trained and kept in checkpoints, and the rows are conversations.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import xxhash
from torch import nn

from infra.errors import ConfigurationError
from model import load
from tasks.finetuning.adapters import ADAPTER_DIRECTORY, add_adapters, save_adapters, trainable
from tasks.finetuning.answers import AnswerSampler
from tasks.finetuning.job import AdapterJob
from tasks.training.checkpoints import Checkpoint, weight_key, whole
from tasks.training.data_order import Batch
from tasks.training.engine import LossModule, Placement, TrainingEngine
from tasks.training.optimizer import adamw
from tasks.training.sharded_state import ShardedState
from tasks.training.trainer import Trainer, main
from tasks.training.validation import Validation


class AdapterEngine(TrainingEngine):
    """A loaded model with adapters, the optimiser of the adapters alone, and DeepSpeed.

    wrapper: peft's, around the model. state: of the adapters.
    """

    def __init__(self, job: AdapterJob, placement: Placement, deepspeed: ModuleType) -> None:
        """Load the base and draw the adapters from the seed. Every rank calls this at the same point."""
        config = job.config
        self._config = config
        self._placement = placement
        self._lora = job.lora
        self._micro_step = 0
        model = load(job.base_model)
        if model.config != config.model:
            raise ConfigurationError(
                f"the base model in '{job.base_model}' is not the one the stage was made for.", "start the run again."
            )
        torch.manual_seed(config.seed)
        self.wrapper = add_adapters(model, job.lora, job.base)
        model.gradient_checkpointing = config.gradient_checkpointing
        adapters = nn.ParameterList(trainable(model).values())
        optimizer = adamw(adapters, betas=config.betas, epsilon=config.epsilon, weight_decay=config.weight_decay)
        self._engine: Any
        self._engine, *_ = deepspeed.initialize(
            model=LossModule(model), optimizer=optimizer, config=config.deepspeed_config()
        )
        self._engine.train()
        self._parameters: dict[str, Any] = trainable(self._engine.module.model)
        self.state = ShardedState(self._engine, self._parameters, config.zero_stage, config.optimizer)

    def forward_backward(self, batch: Batch, weight: float) -> torch.Tensor:
        """As for any model; what dropout leaves out depends on the seed, the update, the micro-batch and the rank."""
        if self._lora.dropout:
            key = (self._config.seed, self.state.optimizer_step, self._micro_step, self._placement.rank)
            torch.manual_seed(xxhash.xxh3_64_intdigest("/".join(map(str, key)).encode()) >> 1)
        self._micro_step += 1
        return super().forward_backward(batch, weight)

    def update(self, learning_rate: float) -> float:
        """As for any model."""
        self._micro_step = 0
        return super().update(learning_rate)

    def discard(self) -> None:
        """As for any model."""
        self._micro_step = 0
        super().discard()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> torch.Tensor:
        """Without dropout."""
        self._engine.eval()
        loss = super().evaluate(batch)
        self._engine.train()
        return loss


class AdapterTrainer(Trainer):
    """Adapters on one rank."""

    def __init__(self, job: AdapterJob, placement: Placement, engine: AdapterEngine) -> None:
        super().__init__(job, placement, engine)
        self._adapters = engine

    def held_out(self) -> Validation | None:
        """Held-out conversations, by the loss of their answers."""
        conversations: Any = self.job.validation_documents() if self.config.validation_rows else None
        if conversations is None:
            return None
        sampler: Any = AnswerSampler(
            conversations, context_tokens=self.config.context_tokens, seed=0, stage="validation"
        )
        return Validation(self.job, self.placement, self.engine, sampler)

    def write_result(self, checkpoint: Checkpoint) -> None:
        """The adapters, in peft's own layout."""
        wrapper = self._adapters.wrapper
        weights = {name: whole(checkpoint, weight_key(name)) for name in trainable(wrapper.get_base_model())}
        save_adapters(wrapper, weights, self.job.output / ADAPTER_DIRECTORY)


def make_trainer(job: AdapterJob, placement: Placement, deepspeed: ModuleType) -> AdapterTrainer:
    """A trainer of adapters."""
    return AdapterTrainer(job, placement, AdapterEngine(job, placement, deepspeed))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), AdapterJob, make_trainer))
