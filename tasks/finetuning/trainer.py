"""Trains adapters: `python -m tasks.finetuning.trainer JOB.json`, alone or as one of torchrun's ranks.

The loop, its checkpoints and its self-defence are the training stage's; here the model is a loaded one with adapters,
which alone are trained and kept in checkpoints, and the rows are conversations.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from infra.errors import ConfigurationError, PipelineError
from model import HybridLM, load
from tasks.finetuning.adapters import ADAPTER_DIRECTORY, add_adapters, save_adapters, trainable
from tasks.finetuning.answers import AnswerSampler
from tasks.finetuning.job import AdapterJob
from tasks.training import trainer as training
from tasks.training.checkpoints import weight_key, whole
from tasks.training.data_order import Batch
from tasks.training.engine import Placement, TrainingEngine, import_deepspeed, start_distributed
from tasks.training.errors import TrainingFailed
from tasks.training.job import (
    DATA_FILE,
    FAILED_EXIT_CODE,
    HISTORY_FILE,
    INTERRUPTED_EXIT_CODE,
    OUT_OF_MEMORY_EXIT_CODE,
    ROLL_BACK_FILE,
    TIMING_FILE,
)
from tasks.training.optimizer import adamw
from tasks.training.sharded_state import ShardedState
from tasks.training.validation import Validation


class _ChatLoss(nn.Module):
    """The loss as a forward pass, which DeepSpeed hooks."""

    def __init__(self, model: HybridLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss(batch.tokens, batch.targets, batch.document_ids)


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
            model=_ChatLoss(model), optimizer=optimizer, config=config.deepspeed_config()
        )
        self._engine.train()
        self._parameters: dict[str, Any] = trainable(self._engine.module.model)
        self.state = ShardedState(self._engine, self._parameters, config.zero_stage, config.optimizer)

    def forward_backward(self, batch: Batch, weight: float) -> Tensor:
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
    def evaluate(self, batch: Batch) -> Tensor:
        """Without dropout."""
        self._engine.eval()
        loss = super().evaluate(batch)
        self._engine.train()
        return loss


class AdapterTrainer(training.Trainer):
    """Adapters on one rank."""

    def __init__(self, job: AdapterJob, placement: Placement, engine: AdapterEngine) -> None:
        super().__init__(job, placement, engine)
        self._adapters = engine
        held_out: Any = AnswerSampler(
            job.validation_documents(), context_tokens=job.config.context_tokens, seed=0, stage="validation"
        )
        self.validation = Validation(job, placement, engine, held_out) if job.config.validation_rows else None

    def export(self) -> None:
        """Write the adapters and the history from the last checkpoint (every rank calls this, the first writes)."""
        self.heartbeat.enter("export", self.config.steps)
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is None or checkpoint.step != self.config.steps:
            raise TrainingFailed(
                f"the last checkpoint, after update {self.config.steps}, is damaged.",
                "run again: training continues from the one before; if it recurs, use another disk.",
            )
        if not self.placement.is_first:
            return
        weights = {
            name: whole(checkpoint, weight_key(name)) for name in trainable(self._adapters.wrapper.get_base_model())
        }
        output = self.job.output
        save_adapters(self._adapters.wrapper, weights, output / ADAPTER_DIRECTORY)
        lines = {
            HISTORY_FILE: checkpoint.series("history"),
            TIMING_FILE: checkpoint.series("timing"),
            DATA_FILE: self.sampler.table(self.config.steps * self.plan.rows_per_step),
            ROLL_BACK_FILE: checkpoint.progress["roll_backs"],
        }
        for name, records in lines.items():
            if records:
                training._write_lines(output / name, records)


def train(job: AdapterJob, placement: Placement, deepspeed: ModuleType) -> int:
    """Train the adapters as one of the job's ranks; return the exit code."""
    try:
        with training._sole_trainer(job.checkpoints, placement):
            trainer = AdapterTrainer(job, placement, AdapterEngine(job, placement, deepspeed))
            try:
                if not trainer.run():
                    if placement.is_first:
                        training.emit("interrupted", {"step": trainer.checkpoints.saved_step})
                    return INTERRUPTED_EXIT_CODE
                trainer.export()
            finally:
                trainer.close()
            placement.sum(0.0)  # nobody leaves before the first rank has written
    except PipelineError as error:
        training.emit("error", {"type": type(error).__name__, "problem": error.problem, "fix": error.fix})
        return FAILED_EXIT_CODE
    except (MemoryError, RuntimeError) as error:
        if not training.is_out_of_memory(error):
            raise
        training.emit("out_of_memory", {"text": f"rank {placement.rank}: {str(error).splitlines()[0]}"})
        return OUT_OF_MEMORY_EXIT_CODE
    return 0


def main(job_path: Path) -> int:
    """Join the other ranks and train the job; return the exit code."""
    # The supervisor asks a rank that hangs for its stack.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    job = AdapterJob.model_validate_json(job_path.read_bytes())
    deepspeed = import_deepspeed()
    placement = start_distributed(job.config, deepspeed)
    code = FAILED_EXIT_CODE
    try:
        code = train(job, placement, deepspeed)
    finally:
        if code in (0, INTERRUPTED_EXIT_CODE):
            torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
