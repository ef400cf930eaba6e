"""Trains one curriculum stage: `python -m tasks.training.trainer JOB.json`, alone or as one of torchrun's ranks.

Started again after any end, it continues from the newest intact checkpoint, and on CPU with the same ranks and
threads arrives at the same losses and weights bit for bit.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from infra.errors import ConfigurationError, PipelineError
from infra.storage.local import atomic_file, explained_write_errors
from model import ModelConfig, load_config
from model.checkpoint_files import WEIGHTS_FILE
from tasks.training.checkpoints import (
    Checkpoint,
    CheckpointStore,
    OptimizerState,
    RetentionPolicy,
    WholeTensors,
    write_model,
    write_optimizer,
)
from tasks.training.data_order import BatchNumbers
from tasks.training.engine import Placement, TrainingEngine, import_deepspeed, start_distributed
from tasks.training.errors import TrainingDiverged, TrainingFailed
from tasks.training.heartbeat import Heartbeat
from tasks.training.job import (
    DATA_FILE,
    FAILED_EXIT_CODE,
    HISTORY_FILE,
    INTERRUPTED_EXIT_CODE,
    MODEL_DIRECTORY,
    OPTIMIZER_DIRECTORY,
    OUT_OF_MEMORY_EXIT_CODE,
    ROLL_BACK_FILE,
    TIMING_FILE,
    TrainingJob,
    emit,
)
from tasks.training.loading import LoadedUpdate, Loader
from tasks.training.profiling import SlowStep, StepProfiler
from tasks.training.roll_back import (
    BadStep,
    RollBack,
    first_changed_update,
    judge_loss,
    rate_share,
    skipped_batches,
)
from tasks.training.schedule import Cut, agreed_updates
from tasks.training.telemetry import Meter
from tasks.training.validation import Validation

#: Longest wait for the reading of rows to get on, unless the restart policy says.
LOADER_STALL_SECONDS = 300.0


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
        config = job.config
        self.job, self.config, self.placement, self.engine = job, config, placement, engine
        self.plan = config.batch_plan
        self.heartbeat = Heartbeat(job.heartbeats, placement.rank)
        self.interruption = Interruption()
        self.sampler = config.sampler(job.training_documents())
        self.loader = Loader(
            self.sampler,
            self.plan,
            placement.rank,
            device=placement.device,
            stall_seconds=config.restart.hang_seconds or LOADER_STALL_SECONDS,
        )
        self.validation = self.held_out()
        self.checkpoints = CheckpointStore(
            job.checkpoints,
            job.checkpoints_remote,
            placement,
            RetentionPolicy(
                newest=config.checkpoints_kept,
                every_steps=config.checkpoint_kept_every_steps,
                behind_steps=config.roll_back.rewind_steps,
            ),
            self._warn,
        )
        self.meter = Meter(config, placement)
        self.profiler = StepProfiler(config, placement, job.output, self._tell_slow, self._say)
        self.history: list[dict[str, Any]] = []
        self.timing: list[dict[str, Any]] = []
        self.roll_backs: list[RollBack] = []
        self.batches = BatchNumbers()
        self.save_is_owed = False
        self.last_save = time.monotonic()

    def run(self) -> bool:
        """Train to the end; False when interrupted (a checkpoint is left). Raises TrainingDiverged."""
        step = self._resume()
        if step or self.batches.skipped:
            self.loader.seat(step, self.batches)
        self._say(self.meter.describe())
        self.meter.started()
        while step < self.config.steps:
            try:
                stop = self.advance(step)
            except BadStep as bad:
                step = self._roll_back(step, bad)
                continue
            step += 1
            if stop and step < self.config.steps:
                return False
        return True

    def advance(self, step: int) -> bool:
        """Make update `step` and what is due after it; return whether the run was asked to stop. Raises BadStep."""
        started = time.perf_counter()
        with self.profiler.around(step + 1):
            record, stop, save_is_due = self._update(step)
        seconds = time.perf_counter() - started
        done = step + 1
        self.profiler.observe(done, seconds)
        if self._is_due(done, self.config.validate_every_fraction):
            record |= self._validate(done)
        self.history.append(record)
        self._report(record, seconds)
        if save_is_due or stop or self.save_is_owed or self._is_due(done, self.config.checkpoint_every_fraction):
            self._save(done, wait=stop or done == self.config.steps)
        return stop

    def export(self) -> None:
        """Write the artifact's files from the last checkpoint (every rank calls this, the first one writes)."""
        self.heartbeat.enter("export", self.config.steps)
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is None or checkpoint.step != self.config.steps:
            raise TrainingFailed(
                f"the last checkpoint, after update {self.config.steps}, is damaged.",
                "run again: training continues from the one before; if it recurs, use another disk.",
            )
        if not self.placement.is_first:
            return
        output = self.job.output
        self.write_result(checkpoint)
        _write_lines(output / HISTORY_FILE, checkpoint.series("history"))
        _write_lines(output / TIMING_FILE, checkpoint.series("timing"))
        _write_lines(output / DATA_FILE, self.sampler.table(self.config.steps * self.plan.rows_per_step))
        if checkpoint.progress["roll_backs"]:
            _write_lines(output / ROLL_BACK_FILE, checkpoint.progress["roll_backs"])

    def held_out(self) -> Validation | None:
        """The rows whose loss is measured now and then; None: none are."""
        return Validation.of(self.job, self.placement, self.engine)

    def write_result(self, checkpoint: Checkpoint) -> None:
        """What was learnt, from the last checkpoint: the model, and the optimiser's state for the next stage."""
        write_model(checkpoint, self.config.stage_model, self.job.output / MODEL_DIRECTORY)
        write_optimizer(checkpoint, checkpoint.progress["optimizer_step"], self.job.output / OPTIMIZER_DIRECTORY)

    def close(self) -> None:
        """Free files and threads."""
        self.loader.close()
        self.profiler.close()
        self.meter.close()
        self.heartbeat.close()

    # One update

    def _update(self, step: int) -> tuple[dict[str, Any], bool, bool]:
        """(record, whether to stop, whether a checkpoint is due by time). Raises BadStep, on all ranks alike."""
        loaded = self._load(step)
        self.heartbeat.enter("forward and backward", step)
        share = self._accumulate(loaded)
        self.heartbeat.enter("exchange", step)
        loss, stop, save_is_due = self._agree(share)
        self.heartbeat.enter("update", step)
        with self.meter.checkpoint_stall:
            self.checkpoints.before_update()
        try:
            judge_loss(loss, [entry["loss"] for entry in self._recent()], self.config.roll_back)
        except BadStep:
            self.engine.discard()
            raise
        learning_rate = self._learning_rate(step)
        norm = self.engine.update(learning_rate)
        if not math.isfinite(norm):
            raise BadStep("gradient norm is not a number", norm)
        record = {
            "step": step + 1,
            "tokens": (step + 1) * self.config.batch_tokens,
            "batch": loaded.batch,
            "loss": loss,
            "learning_rate": learning_rate,
            "gradient_norm": norm,
        }
        return record, stop, save_is_due

    def _accumulate(self, loaded: LoadedUpdate) -> torch.Tensor:
        """Forward and backward over this rank's rows of an update; its share of the mean loss, nats a token."""
        plan = self.plan
        total = torch.zeros((), device=self.placement.device)
        for batch in loaded.micro_batches:
            # DeepSpeed divides by the micro-batches and the ranks; what remains is the mean over all targets.
            weight = batch.target_count * plan.accumulation * plan.ranks / loaded.target_count
            total += self.engine.forward_backward(batch, weight)
            if batch is not loaded.micro_batches[-1]:
                self.engine.pass_over()
        return total / (plan.accumulation * plan.ranks)

    def _load(self, step: int) -> LoadedUpdate:
        self.heartbeat.enter("data", step)
        with self.meter.data_wait:
            return self.loader.next(self.heartbeat.detail)

    def _agree(self, share: torch.Tensor) -> tuple[float, bool, bool]:
        """(loss, whether to stop, whether a checkpoint is due by time), the same on all ranks."""
        overdue = time.monotonic() - self.last_save > self.config.checkpoint_every_seconds
        flags = (float(self.interruption.requested), float(overdue and self.placement.is_first))
        loss, stop, save_is_due = self.placement.sum(share, *flags)
        return loss, stop > 0, save_is_due > 0

    def _learning_rate(self, step: int) -> float:
        planned = self.config.learning_rate_at(step)
        return planned * rate_share(step, self.roll_backs, self.config.roll_back) if self.roll_backs else planned

    def _recent(self) -> list[dict[str, Any]]:
        """The newest records, as many as judging a loss takes; the entry of the start is not an update's."""
        recent = self.history[-self.config.roll_back.window :]
        return recent[1:] if recent and recent[0]["step"] == 0 else recent

    def _is_due(self, done: int, fraction: float) -> bool:
        return done == self.config.steps or done % self.config.every(fraction) == 0

    def _validate(self, done: int) -> dict[str, float]:
        if self.validation is None:
            return {}
        self.heartbeat.enter("validation", done)
        return {"validation_loss": self.validation.loss()}

    # Checkpoints

    def _resume(self) -> int:
        """Take the newest checkpoint, else the previous stage's result, else the fresh model; return the step."""
        self.heartbeat.enter("restoring", 0)
        checkpoint = self._latest()
        if checkpoint is not None:
            self.roll_backs = [RollBack.from_json(record) for record in checkpoint.progress["roll_backs"]]
            self._restore(checkpoint)
            self._say(f"continuing after update {checkpoint.step} of {self.config.steps}")
            return checkpoint.step
        if self.job.previous is not None:
            self._continue_from(self.job.previous)
        # How the model does before the first update: at a border between stages, the loss carried over.
        start = self._validate(0)
        if start:
            self.history.append({"step": 0, "tokens": 0, **start})
        self._save(0)  # so that there always is something to go back to
        return 0

    def _latest(self) -> Checkpoint | None:
        """The newest checkpoint that is of this schedule: not one made beyond a cut as if there had been none."""
        checkpoint = self.checkpoints.load_latest()
        if checkpoint is None:
            return None
        cuts = [Cut.model_validate(cut) for cut in checkpoint.progress.get("cuts", [])]
        agreed = agreed_updates(cuts, self.config.cuts)
        if agreed is None or checkpoint.step <= agreed:
            return checkpoint
        self._say(f"update {checkpoint.step} was made on another schedule; going back to update {agreed} or before")
        return self.checkpoints.load_at_or_before(agreed)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Weights, moments and history as they were; which batches come next follows from the roll-backs."""
        self.engine.state.restore_weights(checkpoint)
        self.engine.state.restore_moments(checkpoint, checkpoint.progress["optimizer_step"])
        self.history, self.timing = checkpoint.series("history"), checkpoint.series("timing")
        self.batches = BatchNumbers(skipped_batches(self.roll_backs, self.config.roll_back))
        self.last_save = time.monotonic()

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

    def _save(self, step: int, *, wait: bool = False) -> None:
        """Start writing a checkpoint; training goes on once the state is copied."""
        self.heartbeat.enter("last checkpoint" if wait else "checkpoint", step)
        self.last_save = time.monotonic()
        measured = [record["validation_loss"] for record in self.history if "validation_loss" in record]
        progress = {
            "optimizer_step": self.engine.state.optimizer_step,
            "validation_loss": measured[-1] if measured else None,
            "roll_backs": [roll_back.as_json() for roll_back in self.roll_backs],
            "cuts": [cut.model_dump() for cut in self.config.cuts],
        }
        series = {"history": self.history, "timing": self.timing}
        with self.meter.checkpoint_stall:
            fragments = self.engine.state.fragments(self.placement.rank, self.placement.ranks)
            self.save_is_owed = not self.checkpoints.save(step, fragments, progress, series, wait=wait)

    # When an update went wrong

    def _roll_back(self, step: int, bad: BadStep) -> int:
        """Go back before a bad update and leave its batch out; return the step to continue from."""
        policy, batch = self.config.roll_back, self.batches.batch(step)
        if len(self.roll_backs) >= policy.maximum:
            raise TrainingDiverged(
                f"the {bad.kind} ({bad.value:.4g}) at update {step + 1} of stage '{self.config.name}', after "
                f"{len(self.roll_backs)} roll-backs (learning rate {self._learning_rate(step):.3g}).",
                "lower learning_rate or lengthen the warmup; what was tried is in the incidents.",
            )
        self.heartbeat.enter("restoring", step)
        changed = first_changed_update(step, self.roll_backs, policy)
        checkpoint = self.checkpoints.load_at_or_before(changed) or self.checkpoints.load_latest()
        if checkpoint is None:
            raise TrainingFailed(
                f"update {step + 1} went wrong ({bad.kind}) and no checkpoint is intact.", "run again from the start."
            )
        self.roll_backs.append(RollBack(step, batch, max(changed, checkpoint.step), bad.kind, bad.value))
        self._restore(checkpoint)
        self.loader.seat(checkpoint.step, self.batches)
        if self.placement.is_first:
            action = (
                f"back to update {checkpoint.step}, batch {batch} skipped, learning rate x {policy.rate_factor:g} "
                f"from update {self.roll_backs[-1].from_step + 1}, climbing back over {policy.rate_recovery_steps}"
            )
            detail = f"{bad.value:.4g} in batch {batch}"
            emit("incident", {"step": step, "kind": bad.kind, "detail": detail, "action": action})
        return checkpoint.step

    # What is told

    def _report(self, record: dict[str, Any], seconds: float) -> None:
        if not self.placement.is_first:
            return
        timing = self.meter.step(
            record["step"], seconds, micro_batch=self.plan.micro_batch, incidents=len(self.roll_backs)
        )
        self.timing.append(timing)
        remaining = self.meter.remaining_seconds(record["step"])
        emit("step", {**record, **timing, "steps": self.config.steps, "eta_seconds": remaining})

    def _tell_slow(self, slow: SlowStep) -> None:
        if self.placement.is_first:
            fields = {"kind": "slow step", "detail": slow.describe(), "action": slow.action}
            emit("incident", {"step": slow.step, **fields})

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


MakeTrainer = Callable[[Any, Placement, ModuleType], Trainer]


def make_trainer(job: TrainingJob, placement: Placement, deepspeed: ModuleType) -> Trainer:
    """A trainer of a whole model."""
    return Trainer(job, placement, TrainingEngine(job.config, placement, deepspeed))


def train(job: TrainingJob, placement: Placement, deepspeed: ModuleType, make: MakeTrainer = make_trainer) -> int:
    """Train the job as one of its ranks; return the exit code."""
    try:
        with explained_write_errors(job.output), _sole_trainer(job.checkpoints, placement):
            trainer = make(job, placement, deepspeed)
            try:
                if not trainer.run():
                    if placement.is_first:
                        emit("interrupted", {"step": trainer.checkpoints.saved_step})
                    return INTERRUPTED_EXIT_CODE
                trainer.export()
            finally:
                trainer.close()
            placement.sum(0.0)  # nobody leaves before the first rank has written
    except PipelineError as error:
        emit("error", {"type": type(error).__name__, "problem": error.problem, "fix": error.fix})
        return FAILED_EXIT_CODE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        emit("out_of_memory", {"text": f"rank {placement.rank}: {str(error).splitlines()[0]}"})
        return OUT_OF_MEMORY_EXIT_CODE
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU by its type, on the host by what PyTorch's allocator says."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def main(job_path: Path, kind: type[TrainingJob] = TrainingJob, make: MakeTrainer = make_trainer) -> int:
    """Join the other ranks and train the job; return the exit code."""
    # The supervisor asks a rank that hangs for its stack.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    job = kind.read(job_path)
    deepspeed = import_deepspeed()
    placement = start_distributed(job.config, deepspeed)
    code = FAILED_EXIT_CODE
    try:
        code = train(job, placement, deepspeed, make)
    finally:
        if code in (0, INTERRUPTED_EXIT_CODE):
            torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
