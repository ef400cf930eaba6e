"""What the trainer costs beside the model: tokens per second of ours and of a bare PyTorch loop, in one process.

    python -m benchmarks.trainer_overhead [--context 256] [--batch 1024] [--updates 60] [--threads 2]

Both train the same model on the same rows with AdamW, clipping and the same micro-batches. Ours adds DeepSpeed, the
sampler, the record and event of every update, and checkpoints. They take turns, one update each, so that other load
on the machine meets both alike; such load only ever adds time, so their lower quartiles are compared. The time that
training stands still for a checkpoint is printed beside.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

from infra.quiet import apply_quiet_environment

apply_quiet_environment()  # before torch is loaded: OpenMP reads how long to spin only then

import numpy as np  # noqa: E402
import torch  # noqa: E402

from model import HybridLM, preset  # noqa: E402
from tasks.tokenization.token_shards import write_token_shard  # noqa: E402
from tasks.training import TrainingStageConfig, trainer  # noqa: E402
from tasks.training.data_order import Batch, Sampler  # noqa: E402
from tasks.training.engine import TrainingEngine, import_deepspeed, start_distributed  # noqa: E402
from tasks.training.job import TrainingJob  # noqa: E402
from tasks.training.optimizer import adamw  # noqa: E402

WARMUP_UPDATES = 3


def make_job(directory: Path, arguments: argparse.Namespace) -> TrainingJob:
    """A job on random documents of 20 to 2,000 tokens."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(20, 2000, size=400)
    documents = [generator.integers(0, 4096, size=length).tolist() for length in lengths]
    write_token_shard(directory / "train-00000", documents, [0] * 400, lengths.tolist(), np.dtype("<u2"))
    config = TrainingStageConfig(
        name="benchmark",
        context_tokens=arguments.context,
        batch_tokens=arguments.batch,
        tokens=arguments.batch * (arguments.updates + WARMUP_UPDATES),
        checkpoint_every_fraction=1.0,  # measured apart
        learning_rate=1e-3,
        threads_per_rank=arguments.threads,
        validation_rows=0,
        model=preset("smoke"),
    )
    return TrainingJob(
        config=config,
        train_shards=[directory / "train-00000"],
        validation_shards=[],
        source_names=["random"],
        previous=None,
        output=directory,
        checkpoints=directory / "checkpoints",
    )


class TrainerLoop:
    """The pipeline's trainer, update by update in this process; `stop` ends what it started."""

    def __init__(self, job: TrainingJob) -> None:
        deepspeed = import_deepspeed()
        placement = start_distributed(job.config, deepspeed)
        self._trainer = trainer.Trainer(job, placement, TrainingEngine(job.config, placement, deepspeed))
        self._step = 0

    def update(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # its events
            self._trainer.advance(self._step)
        self._step += 1

    def nats(self, batch: Batch) -> float:
        """Summed loss of the batch's targets."""
        return float(self._trainer.engine.evaluate(batch))

    def checkpoint(self) -> float:
        """Write a checkpoint; return the seconds for which training stood still."""
        started = time.perf_counter()
        state = self._trainer.engine.state
        self._trainer.checkpoints.save(self._step, state.fragments(0, 1), {"optimizer_step": state.optimizer_step})
        stall = time.perf_counter() - started
        self._trainer.checkpoints.wait()
        return stall

    def stop(self) -> None:
        torch.distributed.destroy_process_group()


class BareLoop:
    """The same updates with nothing but PyTorch, the rows in memory before."""

    def __init__(self, job: TrainingJob, model: HybridLM | None = None) -> None:
        """Train `model`, which has `HybridLM`'s `loss`; left out: the one that the trainer would begin with."""
        self._config, self._plan = job.config, job.config.batch_plan
        torch.manual_seed(job.config.seed)
        self._model = model or HybridLM(job.config.stage_model)
        self._optimizer = adamw(
            self._model,
            betas=job.config.betas,
            epsilon=job.config.epsilon,
            weight_decay=job.config.weight_decay,
        )
        self._batches = iter(training_batches(job))
        self._step = 0

    def update(self) -> None:
        for _ in range(self._plan.accumulation):
            batch = next(self._batches)
            loss = self._model.loss(batch.tokens, batch.targets, batch.document_ids) / self._plan.accumulation
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate_at(self._step)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    @torch.no_grad()
    def nats(self, batch: Batch) -> float:
        """Summed loss of the batch's targets."""
        return float(self._model.loss(batch.tokens, batch.targets, batch.document_ids)) * batch.target_count


def training_batches(job: TrainingJob) -> list[Batch]:
    """The micro-batches of all updates of a job with one rank, in the trainer's order."""
    config, plan = job.config, job.config.batch_plan
    sampler = Sampler(
        job.training_documents(), context_tokens=config.context_tokens, seed=config.seed, stage=config.name
    )
    return [
        sampler.batch(plan.first_row(step, micro, 0), plan.micro_batch)
        for step in range(config.steps)
        for micro in range(plan.accumulation)
    ]


def measure(job: TrainingJob) -> tuple[list[float], list[float], float]:
    """Seconds of each update, ours and the bare loop's, and seconds that one checkpoint stops ours for."""
    ours, bare = TrainerLoop(job), BareLoop(job)
    turns: tuple[list[float], list[float]] = ([], [])
    for _ in range(job.config.steps - 1):
        started = time.perf_counter()
        ours.update()
        middle = time.perf_counter()
        bare.update()
        turns[0].append(middle - started)
        turns[1].append(time.perf_counter() - middle)
    stall = ours.checkpoint()
    ours.stop()
    return turns[0][WARMUP_UPDATES:], turns[1][WARMUP_UPDATES:], stall


def main() -> None:
    """Measure and print one line a loop and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1024, help="tokens an update")
    parser.add_argument("--updates", type=int, default=60, help="updates of each loop that count")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        ours, bare, stall = measure(make_job(Path(directory), arguments))
    our_seconds, bare_seconds = (statistics.quantiles(seconds, n=4)[0] for seconds in (ours, bare))
    print(f"context {arguments.context}, {arguments.batch} tokens an update, {arguments.threads} threads")
    print(f"trainer           {arguments.batch / our_seconds:9,.0f} tokens/s")
    print(f"bare loop         {arguments.batch / bare_seconds:9,.0f} tokens/s")
    print(f"overhead          {our_seconds / bare_seconds - 1:9.1%}")
    print(f"checkpoint stall  {stall * 1000:9,.1f} ms")


if __name__ == "__main__":
    main()
