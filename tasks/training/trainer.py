"""Trains one curriculum stage: `python -m tasks.training.trainer JOB.json`, alone or as one of torchrun's ranks.

Started again after any end, it continues from the newest intact checkpoint, and on CPU with the same ranks and
threads arrives at the same losses and weights bit for bit.
"""

from __future__ import annotations

import fcntl
import json
import math
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from infra.errors import ConfigurationError, PipelineError
from infra.storage.local import atomic_file
from model import ModelConfig, load_config
from model.checkpoint_files import WEIGHTS_FILE
from tasks.training.checkpoints import (
    CheckpointStore,
    OptimizerState,
    RetentionPolicy,
    WholeTensors,
    write_model,
    write_optimizer,
)
from tasks.training.engine import Placement, TrainingEngine, import_deepspeed, start_distributed
from tasks.training.errors import TrainingDiverged, TrainingFailed
from tasks.training.job import (
    FAILED_EXIT_CODE,
    HISTORY_FILE,
    INTERRUPTED_EXIT_CODE,
    MODEL_DIRECTORY,
    OPTIMIZER_DIRECTORY,
    TIMING_FILE,
    TrainingJob,
    emit,
)
from tasks.training.sampler import Sampler

_RATE_WINDOW_STEPS = 20


class Interruption:
    """Whether SIGTERM or SIGINT has asked the run to stop; the loop looks once an update."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True


class Trainer:
    """One curriculum stage on one rank."""

    def __init__(self, job: TrainingJob, placement: Placement, engine: TrainingEngine) -> None:
        self.job = job
        self.config = job.config
        self.placement = placement
        self.engine = engine
        self.plan = job.config.batch_plan
        self.checkpoints = CheckpointStore(
            job.checkpoints,
            job.checkpoints_remote,
            placement,
            RetentionPolicy(newest=job.config.checkpoints_kept),
            self._warn,
        )
        self.save_is_owed = False
        self.interruption = Interruption()
        self.history: list[dict[str, Any]] = []
        self.timing: list[dict[str, Any]] = []
        self.recent_seconds: deque[float] = deque(maxlen=_RATE_WINDOW_STEPS)
        self.last_save = time.monotonic()
        self.sampler = Sampler(
            job.training_documents(),
            context_tokens=self.config.context_tokens,
            seed=self.config.seed,
            stage=self.config.name,
            mixture=self.config.mixture,
        )
        self.validation = _validation_sampler(job)

    def run(self) -> bool:
        """Train to the end; False when interrupted (a checkpoint is left). Raises TrainingDiverged."""
        for step in range(self._resume(), self.config.steps):
            stop = self.advance(step)
            if stop and step + 1 < self.config.steps:
                return False
        return True

    def advance(self, step: int) -> bool:
        """Make update `step` and what is due after it; return whether the run was asked to stop."""
        started = time.perf_counter()
        loss, stop, save_is_due = self._agree(self._accumulate(step))
        if not math.isfinite(loss):
            self._save(step, wait=True)
            raise self._diverged("loss", loss, step)
        learning_rate = self.config.learning_rate_at(step)
        self.checkpoints.before_update()
        norm = self.engine.update(learning_rate)
        if not math.isfinite(norm):
            self.checkpoints.wait()
            raise self._diverged("gradient norm", norm, step)
        seconds = time.perf_counter() - started
        done = step + 1
        record = {
            "step": done,
            "tokens": done * self.config.batch_tokens,
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": norm,
        }
        if self._is_due(done, self.config.validate_every_fraction):
            record |= self._validate()
        self._record(record, seconds)
        if save_is_due or stop or self.save_is_owed or self._is_due(done, self.config.checkpoint_every_fraction):
            self._save(done, wait=stop or done == self.config.steps)
        return stop

    def export(self) -> None:
        """Write the artifact's files from the last checkpoint (every rank calls this, the first one writes)."""
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is None or checkpoint.step != self.config.steps:
            raise TrainingFailed(
                f"the last checkpoint, after update {self.config.steps}, is damaged.",
                "run again: training continues from the one before; if it recurs, use another disk.",
            )
        if not self.placement.is_first:
            return
        write_model(checkpoint, self.config.stage_model, self.job.output / MODEL_DIRECTORY)
        write_optimizer(checkpoint, checkpoint.progress["optimizer_step"], self.job.output / OPTIMIZER_DIRECTORY)
        _write_lines(self.job.output / HISTORY_FILE, checkpoint.series("history"))
        _write_lines(self.job.output / TIMING_FILE, checkpoint.series("timing"))

    def _resume(self) -> int:
        """Take the newest checkpoint, else the previous stage's result, else the fresh model; return the step."""
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is not None:
            self.engine.state.restore_weights(checkpoint)
            self.engine.state.restore_moments(checkpoint, checkpoint.progress["optimizer_step"])
            self.history, self.timing = checkpoint.series("history"), checkpoint.series("timing")
            self._say(f"continuing after update {checkpoint.step} of {self.config.steps}")
            return checkpoint.step
        if self.job.previous is not None:
            self._continue_from(self.job.previous)
        return 0

    def _continue_from(self, previous: Path) -> None:
        if not _same_weights(load_config(previous / MODEL_DIRECTORY), self.config.model):
            raise ConfigurationError(
                "the previous stage's checkpoint is of another model than this stage's.",
                "give all stages of a curriculum the same model.",
            )
        self.engine.state.restore_weights(WholeTensors(previous / MODEL_DIRECTORY / WEIGHTS_FILE))
        if self.config.carry_optimizer:
            moments = OptimizerState(previous / OPTIMIZER_DIRECTORY)
            self.engine.state.restore_moments(moments, moments.optimizer_step)

    def _accumulate(self, step: int) -> torch.Tensor:
        """Forward and backward over this rank's rows of the update; its share of the mean loss, nats a token."""
        plan = self.plan
        targets = self.sampler.target_count(step * plan.rows_per_step, plan.rows_per_step)
        total = torch.zeros((), device=self.placement.device)
        for micro_step in range(plan.accumulation):
            batch = self.sampler.batch(plan.first_row(step, micro_step, self.placement.rank), plan.micro_batch)
            # DeepSpeed divides by the micro-batches and the ranks; what remains is the mean over all targets.
            weight = batch.target_count * plan.accumulation * plan.ranks / targets
            total += self.engine.forward_backward(batch, weight)
            if micro_step + 1 < plan.accumulation:
                self.engine.pass_over()
        return total / (plan.accumulation * plan.ranks)

    def _agree(self, share: torch.Tensor) -> tuple[float, bool, bool]:
        """(loss, whether to stop, whether a checkpoint is due by time), the same on all ranks."""
        overdue = time.monotonic() - self.last_save > self.config.checkpoint_every_seconds
        flags = (float(self.interruption.requested), float(overdue and self.placement.is_first))
        loss, stop, save_is_due = self.placement.sum(share, *flags)
        return loss, stop > 0, save_is_due > 0

    def _is_due(self, done: int, fraction: float) -> bool:
        return done == self.config.steps or done % self.config.every(fraction) == 0

    def _validate(self) -> dict[str, float]:
        """Loss on the held-out rows, in nats a token."""
        if self.validation is None:
            return {}
        rows_at_once = self.plan.micro_batch * self.plan.ranks
        total = torch.zeros((), dtype=torch.float64, device=self.placement.device)
        targets = 0
        for first in range(0, self.config.validation_rows, rows_at_once):
            own = first + self.placement.rank * self.plan.micro_batch
            batch = self.validation.batch(own, self.plan.micro_batch)
            total += self.engine.evaluate(batch)
            targets += batch.target_count
        loss, count = self.placement.sum(total, targets)
        return {"validation_loss": loss / count}

    def _record(self, record: dict[str, Any], seconds: float) -> None:
        self.recent_seconds.append(seconds)
        self.history.append(record)
        if not self.placement.is_first:
            return
        mean_seconds = sum(self.recent_seconds) / len(self.recent_seconds)
        timing = {
            "step": record["step"],
            "seconds": round(seconds, 4),
            "tokens_per_second": round(self.config.batch_tokens / mean_seconds, 1),
            "peak_gb": round(_peak_bytes(self.placement.device) / 1e9, 3),
        }
        self.timing.append(timing)
        remaining = self.config.steps - record["step"]
        emit("step", {**record, **timing, "steps": self.config.steps, "eta_seconds": remaining * mean_seconds})

    def _save(self, step: int, *, wait: bool = False) -> None:
        """Start writing a checkpoint; training goes on once the state is copied."""
        self.last_save = time.monotonic()
        measured = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        progress = {
            "optimizer_step": self.engine.state.optimizer_step,
            "validation_loss": measured[-1] if measured else None,
        }
        series = {"history": self.history, "timing": self.timing}
        fragments = self.engine.state.fragments(self.placement.rank, self.placement.ranks)
        self.save_is_owed = not self.checkpoints.save(step, fragments, progress, series, wait=wait)

    def _diverged(self, what: str, value: float, step: int) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {what} became {value} at update {step + 1} of stage '{self.config.name}' "
            f"(learning rate {self.config.learning_rate_at(step):.3g}).",
            "lower learning_rate or lengthen the warmup; the weights before it are in the last checkpoint.",
        )

    def _say(self, text: str) -> None:
        if self.placement.is_first:
            emit("message", {"text": text})

    def _warn(self, text: str) -> None:
        """From any rank, and from the threads that write checkpoints."""
        emit("warning", {"text": text if self.placement.is_first else f"rank {self.placement.rank}: {text}"})


def _same_weights(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether one model's weights mean the same in the other; the RoPE base and the context may differ."""
    free: dict[str, object] = {"rope_theta": 1e4, "maximum_context": 1}
    return one.model_copy(update=free) == other.model_copy(update=free)


def _validation_sampler(job: TrainingJob) -> Sampler | None:
    documents = job.validation_documents() if job.config.validation_rows else None
    if documents is None:
        return None
    # The same rows in every stage of equal context and for every seed, so that losses compare.
    return Sampler(documents, context_tokens=job.config.context_tokens, seed=0, stage="validation")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    with atomic_file(path) as stream:
        for record in records:
            stream.write(json.dumps(record).encode() + b"\n")


@contextmanager
def _sole_trainer(directory: Path, placement: Placement) -> Iterator[None]:
    """Wait until no other trainer works on these checkpoints: one whose stage was killed may still be saving."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("ab") as lock:
        if placement.is_first:
            fcntl.flock(lock, fcntl.LOCK_EX)
        placement.sum(0.0)  # the others wait here
        yield


def train(job: TrainingJob, placement: Placement, deepspeed: ModuleType) -> int:
    """Train the job as one of its ranks; return the exit code."""
    try:
        with _sole_trainer(job.checkpoints, placement):
            trainer = Trainer(job, placement, TrainingEngine(job.config, placement, deepspeed))
            if not trainer.run():
                if placement.is_first:
                    emit("interrupted", {"step": trainer.checkpoints.saved_step})
                return INTERRUPTED_EXIT_CODE
            trainer.export()
            placement.sum(0.0)  # nobody leaves before the first rank has written
    except PipelineError as error:
        if placement.is_first:
            emit("error", {"type": type(error).__name__, "problem": error.problem, "fix": error.fix})
        return FAILED_EXIT_CODE
    return 0


def main(job_path: Path) -> int:
    """Join the other ranks and train the job; return the exit code."""
    job = TrainingJob.read(job_path)
    deepspeed = import_deepspeed()
    placement = start_distributed(job.config, deepspeed)
    try:
        return train(job, placement, deepspeed)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
