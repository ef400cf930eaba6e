"""Our trainer and its hybrid beside a standard decoder in the transformers Trainer and in a bare loop.

    python -m benchmarks.training_peers [--tokens 200000] [--threads 2] [--wikitext DIRECTORY]
                                        [--context 256 --batch 1024] [--width 256 --layers 4 --parameters 3.6e6]

All train on the same rows in the same order (documentation of the standard library and of packages, cut into token
shards by our own stages), with as many tokens an update, in float32, with equal width, layers, vocabulary and, within
2%, parameters, clipping at norm 1, weight decay 0.1 on matrices, and a cosine that falls to 5% after a short warmup:

- ours, Muon: this pipeline's trainer and a 3:1 HGRN-2 hybrid, with the optimiser of the default profile;
- ours, AdamW: the same with AdamW;
- bare loop, our hybrid: the same model, rows and AdamW in twenty lines of PyTorch: what the trainer costs;
- Trainer, Llama: transformers' `Trainer` and `LlamaForCausalLM` (RoPE, SwiGLU, grouped queries), initialised as it
  comes and with the Trainer's defaults for everything not named above;
- bare loop, Llama: the same decoder in the bare loop as nanoGPT has it, initialised by our rule (linears by fan-in,
  embeddings by width, residual projections divided), which at these widths learns faster than transformers' 0.02.

Every contender has its own process and the same number of learning rates to try, all around its own usual rate
(`--factors`); the bare loop of our hybrid, which cannot learn anything else than the trainer, runs at the middle one.
The best rate is chosen by one half of the held-out rows, and the other half gives the loss that is printed. A decoder
reads a packed row as peers do, earlier documents of the row in sight; the hybrid starts afresh at each document.
WikiText's test articles (when its directory is given) are held out whole and are of a kind that nobody was trained on.

How to read it. `held out` and `WikiText` are nats a token after equally many tokens: less is better, and a tenth is
much. `tokens/s` is the median over slices of `--slice` updates that the contenders make in turn, in an order drawn
anew, so that other load on the machine meets all alike; the ratio is the median of the same turns' ratios of ours
with AdamW to the contender, so more than 1 means that ours is faster. With one thread the clock is the
process's CPU time, with several the wall's: then the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from infra.quiet import apply_quiet_environment

apply_quiet_environment()  # before torch is loaded: OpenMP reads how long to spin only then

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.model_peers import Size, built, candidates, parameters  # noqa: E402
from benchmarks.trainer_overhead import BareLoop, Batch, Sampler, TrainerLoop, training_batches  # noqa: E402
from benchmarks.training_text import installed_docs, standard_library_docs, tokens_of, wikitext  # noqa: E402
from infra.artifacts import Artifact, ArtifactStore  # noqa: E402
from model import parameter_count  # noqa: E402
from tasks.tokenization import TokenDataset  # noqa: E402
from tasks.training import TrainingStageConfig  # noqa: E402
from tasks.training.job import TrainingJob  # noqa: E402

FINAL_RATE = 0.05
WARMUP_FRACTION = 0.02
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
SEED = 0


@dataclass(frozen=True)
class Contender:
    """Who trains what. `loop`: "trainer", "bare" or "transformers"; `model`: a name of `benchmarks.model_peers`."""

    name: str
    loop: str
    model: str
    rate: float
    """Its usual learning rate, around which others are tried."""
    optimizer: str = "adamw"
    tries_rates: bool = True
    initialised_as_ours: bool = False


OURS = Contender("ours, AdamW", "trainer", "ours hgrn2", 3e-3)
CONTENDERS = (
    Contender("ours, Muon", "trainer", "ours hgrn2", 6e-3, optimizer="muon"),
    OURS,
    Contender("bare loop, our hybrid", "bare", "ours hgrn2", 3e-3, tries_rates=False),
    Contender("Trainer, Llama", "transformers", "Llama", 3e-3),
    Contender("bare loop, Llama", "bare", "Llama", 3e-3, initialised_as_ours=True),
)


@dataclass(frozen=True)
class Task:
    """What a contender's process is told: its job, its held-out rows (name -> shards), the models' size."""

    contender: Contender
    factor: float
    job: TrainingJob
    held_out: dict[str, list[Path]]
    held_out_rows: int
    size: Size
    threads: int


@dataclass
class Outcome:
    """One contender at one learning rate."""

    contender: Contender
    factor: float
    parameters: int
    losses: dict[str, float]
    seconds: list[float]
    """Of each slice of updates."""

    @property
    def rate(self) -> float:
        return self.contender.rate * self.factor


class PlainDecoder(nn.Module):
    """A Hugging Face decoder with the `loss` of `HybridLM`; documents of a row see those before them."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def loss(self, tokens: Tensor, targets: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Mean cross entropy in nats of `targets` `[batch, time]`, -100 left out."""
        loss: Tensor = self.decoder(input_ids=tokens, labels=targets, shift_labels=targets, use_cache=False).loss
        return loss


class Turns:
    """The contender's end of the pipe: it makes updates only when told to, and answers between them."""

    def __init__(self, connection: Connection, threads: int, losses: Callable[[], dict[str, float]]) -> None:
        self._connection = connection
        self._clock = time.process_time if threads == 1 else time.perf_counter
        self._losses = losses
        self._remaining = 0
        self._started: float | None = None

    def before_update(self) -> None:
        """Wait until an update is wanted."""
        while self._remaining == 0:
            self._answer()
        self._remaining -= 1

    def serve(self) -> None:
        """Answer, all updates made, until told to end."""
        while True:
            self._answer()

    def _answer(self) -> None:
        if self._started is not None:
            self._connection.send(self._clock() - self._started)
            self._started = None
        order, count = self._connection.recv()
        if order == "update":
            self._remaining, self._started = count, self._clock()
        elif order == "losses":
            self._connection.send(self._losses())
        else:
            raise SystemExit


def contend(task: Task, connection: Connection) -> None:
    """The body of a contender's process: say the number of parameters, then take turns."""
    torch.set_num_threads(task.threads)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # what libraries print
        if task.contender.loop == "transformers":
            train_with_transformers(task, connection)
        else:
            train_hybrid_or_bare(task, connection)


def train_hybrid_or_bare(task: Task, connection: Connection) -> None:
    """In our trainer, or in the bare loop."""
    # The hybrid's loops build it themselves, from the job.
    decoder = None if task.contender.model == OURS.model else built_decoder(task)
    connection.send(parameters(decoder) if decoder else parameter_count(task.job.config.model).total)
    loop = TrainerLoop(task.job) if task.contender.loop == "trainer" else BareLoop(task.job, decoder)
    turns = Turns(connection, task.threads, lambda: held_out_losses(task, loop.nats))
    for _ in range(task.job.config.steps):
        turns.before_update()
        loop.update()
    turns.serve()


def train_with_transformers(task: Task, connection: Connection) -> None:
    """The same in the Trainer of transformers, which asks for its turn through a callback."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    decoder, config = built_decoder(task), task.job.config
    connection.send(parameters(decoder))
    turns = Turns(connection, task.threads, lambda: held_out_losses(task, nats_of(decoder)))

    class TakeTurns(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            turns.before_update()

    with tempfile.TemporaryDirectory() as directory:
        settings = transformers.TrainingArguments(
            output_dir=directory,
            use_cpu=True,
            seed=SEED,
            max_steps=config.steps,
            per_device_train_batch_size=config.rows_per_step,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": FINAL_RATE},
            warmup_steps=round(WARMUP_FRACTION * config.steps),
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            model=decoder.decoder, args=settings, train_dataset=TrainerRows(task.job), callbacks=[TakeTurns()]
        )
        trainer.train()
        turns.serve()


class TrainerRows(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The job's rows one by one, for transformers' Trainer."""

    def __init__(self, job: TrainingJob) -> None:
        self._batches = training_batches(job)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._batches:
            for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
                yield {"input_ids": tokens, "labels": targets, "shift_labels": targets}


def built_decoder(task: Task) -> PlainDecoder:
    """The contender's model, of Hugging Face's, from the seed."""
    decoder = built(candidate_of(task.contender, task.size), task.size)
    if task.contender.initialised_as_ours:
        initialise_as_ours(decoder)
    return PlainDecoder(decoder)


def candidate_of(contender: Contender, size: Size) -> Any:
    return next(candidate for candidate in candidates(size) if candidate.name == contender.model)


def initialise_as_ours(decoder: nn.Module) -> None:
    """What `HybridLM` does: normal with std fan_in ** -0.5, residual projections / sqrt(2 layers), width ** -0.5."""
    config = decoder.config
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            std = module.in_features**-0.5
            if name.endswith(("o_proj", "down_proj")):
                std /= math.sqrt(2 * config.num_hidden_layers)
            nn.init.normal_(module.weight, std=std)
    nn.init.normal_(decoder.get_input_embeddings().weight, std=config.hidden_size**-0.5)  # type: ignore[operator]


def held_out_losses(task: Task, nats: Callable[[Batch], float]) -> dict[str, float]:
    """Nats a token on each set of held-out rows."""
    losses = {}
    rows_at_once = task.job.config.rows_per_step
    for name, batches in held_out_batches(task, rows_at_once).items():
        total = math.fsum(nats(batch) for batch in batches)
        losses[name] = total / sum(batch.target_count for batch in batches)
    return losses


def held_out_batches(task: Task, rows_at_once: int) -> dict[str, list[Batch]]:
    """The held-out rows by set; those of the training sources in two halves, one to choose by and one to report."""
    sets = {}
    for name, shards in task.held_out.items():
        documents = task.job.model_copy(update={"validation_shards": shards}).validation_documents()
        assert documents is not None
        sampler = Sampler(documents, context_tokens=task.job.config.context_tokens, seed=0, stage="validation")
        rows = min(task.held_out_rows, documents.token_count // task.job.config.context_tokens)
        count = max(2, rows // rows_at_once)
        sets[name] = [sampler.batch(index * rows_at_once, rows_at_once) for index in range(count)]
    own = sets.pop("own")
    return {"choice": own[::2], "held out": own[1::2], **sets}


def nats_of(model: PlainDecoder) -> Callable[[Batch], float]:
    @torch.no_grad()
    def nats(batch: Batch) -> float:
        return float(model.loss(batch.tokens, batch.targets)) * batch.target_count

    return nats


class Remote:
    """A contender's process, seen from the referee."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=contend, args=(task, other), daemon=True)
        self._process.start()
        other.close()
        self.task = task
        self.parameters = 0

    def wait_until_ready(self) -> None:
        """Until its libraries are loaded, which all contenders do at the same time."""
        self.parameters = self._receive()

    def update(self, count: int) -> float:
        """Make so many updates; return the seconds."""
        self._connection.send(("update", count))
        seconds: float = self._receive()
        return seconds

    def losses(self) -> dict[str, float]:
        self._connection.send(("losses", 0))
        losses: dict[str, float] = self._receive()
        return losses

    def stop(self) -> None:
        self._connection.send(("stop", 0))
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            name, code = self.task.contender.name, self._process.exitcode
            raise SystemExit(f"'{name}' ended with exit code {code}: its output above says why") from error


def compete(tasks: Sequence[Task], slice_updates: int, shuffler: random.Random) -> list[Outcome]:
    """Train all tasks side by side, a slice of updates each in turn."""
    remotes = [Remote(task) for task in tasks]
    for remote in remotes:
        remote.wait_until_ready()
    seconds: dict[str, list[float]] = defaultdict(list)
    steps = tasks[0].job.config.steps
    for done in range(0, steps, slice_updates):
        for remote in shuffler.sample(remotes, len(remotes)):
            count = min(slice_updates, steps - done)
            taken = remote.update(count)
            if count == slice_updates:
                seconds[remote.task.contender.name].append(taken)
    outcomes = []
    for remote in remotes:
        # The first slice fills caches and lets every library warm up.
        kept = seconds[remote.task.contender.name][1:]
        outcomes.append(Outcome(remote.task.contender, remote.task.factor, remote.parameters, remote.losses(), kept))
        remote.stop()
    return outcomes


def make_task(
    contender: Contender, factor: float, tokens: Artifact, wiki: Artifact | None, home: Path, arguments: Any
) -> Task:
    """What the contender's process needs at `factor` times its usual rate."""
    size = Size(arguments.width, arguments.layers, arguments.vocabulary, arguments.parameters)
    rate = contender.rate * factor
    with torch.device("meta"):
        hybrid = built(candidate_of(OURS, size), size)
    config = TrainingStageConfig(
        name="peers",
        context_tokens=arguments.context,
        batch_tokens=arguments.batch,
        tokens=arguments.tokens,
        learning_rate=rate,
        final_learning_rate=FINAL_RATE * rate,
        warmup_fraction=WARMUP_FRACTION,
        weight_decay=WEIGHT_DECAY,
        betas=BETAS,
        optimizer=contender.optimizer,
        threads_per_rank=arguments.threads,
        validation_rows=0,  # measured by the referee's rows, the same for all
        seed=SEED,
        checkpoint_every_fraction=1.0,
        model=hybrid.config,
    )
    directory = home / f"{contender.name}-{factor}".replace(" ", "-").replace(",", "")
    job = TrainingJob(
        config=config,
        train_shards=shards_of(tokens, "train"),
        validation_shards=[],
        source_names=TokenDataset.open(tokens, "train").source_names,
        previous=None,
        output=directory,
        checkpoints=directory / "checkpoints",
    )
    held_out = {"own": shards_of(tokens, "validation")}
    if wiki is not None:
        held_out["WikiText"] = shards_of(wiki, "train")
    return Task(contender, factor, job, held_out, arguments.held_out_rows, size, arguments.threads)


def shards_of(tokens: Artifact, split: str) -> list[Path]:
    """The split's shards as paths without suffix."""
    return [path.with_suffix("") for path in tokens.paths(f"{split}-", ".idx")]


def tournament(tokens: Artifact, wiki: Artifact | None, home: Path, arguments: argparse.Namespace) -> list[Outcome]:
    """All contenders at all their rates: one round of side-by-side training for each factor."""
    shuffler = random.Random(SEED)
    outcomes = []
    middle = arguments.factors[len(arguments.factors) // 2]
    chosen = [each for each in CONTENDERS if each is OURS or matches(each, arguments.contenders)]
    for factor in arguments.factors:
        present = [contender for contender in chosen if contender.tries_rates or factor == middle]
        tasks = [make_task(contender, factor, tokens, wiki, home, arguments) for contender in present]
        for outcome in compete(tasks, arguments.slice, shuffler):
            outcomes.append(outcome)
            losses = ", ".join(f"{name} {loss:.3f}" for name, loss in outcome.losses.items())
            speed = arguments.slice * arguments.batch / statistics.median(outcome.seconds)
            print(
                f"  {outcome.contender.name:<22} rate {outcome.rate:.2g}: {losses}, {speed:,.0f} tokens/s", flush=True
            )
    return outcomes


def matches(contender: Contender, parts: Sequence[str] | None) -> bool:
    return not parts or any(part.lower() in contender.name.lower() for part in parts)


def report(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> None:
    """A line a contender: the best rate's losses, the speed over all rounds."""
    ours = joined_seconds(outcomes, OURS)
    sets = [name for name in outcomes[0].losses if name != "choice"]
    print(f"\n{'':<22}{'parameters':>11}{'rate':>9}" + "".join(f"{name:>10}" for name in sets), end="")
    print(f"{'tokens/s':>10}{'ours / it':>11}")
    slice_tokens = arguments.slice * arguments.batch
    for contender in dict.fromkeys(outcome.contender for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.contender == contender]
        best = min(own, key=lambda outcome: outcome.losses["choice"])
        seconds = joined_seconds(outcomes, contender)
        # Of the rounds in which both took part, which are all but for a contender that tries one rate.
        ratios = [seconds[place] / ours[place] for place in seconds.keys() & ours.keys()]
        at_edge = contender.tries_rates and len(own) > 2 and best.rate in (own[0].rate, own[-1].rate)
        print(
            f"{contender.name:<22}{best.parameters / 1e6:>10.2f}M{best.rate:>8.2g}{'*' if at_edge else ' '}"
            + "".join(f"{best.losses[name]:>10.3f}" for name in sets)
            + f"{slice_tokens / statistics.median(seconds.values()):>10,.0f}{statistics.median(ratios):>10.2f}x"
        )
    print("* the best of its rates is the first or the last that was tried: others may be better")


def joined_seconds(outcomes: Sequence[Outcome], contender: Contender) -> dict[tuple[float, int], float]:
    """Seconds of every slice of the contender's runs, by (factor of its rate, number of the slice)."""
    own = [outcome for outcome in outcomes if outcome.contender == contender]
    return {(outcome.factor, place): value for outcome in own for place, value in enumerate(outcome.seconds)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikitext", type=Path, help="directory with test.jsonl, held out whole")
    parser.add_argument("--contenders", nargs="+", help="names or parts of names beside ours; all when left out")
    parser.add_argument("--tokens", type=int, default=200_000, help="for each contender and rate")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="of each one's usual rate")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1024, help="tokens an update")
    parser.add_argument("--slice", type=int, default=10, help="updates of one turn")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--parameters", type=float, default=3.7e6)
    parser.add_argument("--held-out-rows", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path, help="keep the texts here, and use what is there")
    arguments = parser.parse_args()
    if arguments.tokens < 3 * arguments.slice * arguments.batch:
        parser.error("give --tokens for at least three slices of updates: the first is not timed")
    return arguments


def main() -> None:
    """Make the texts, train everyone, print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        home = arguments.store or Path(directory)
        store = ArtifactStore.open(str(home / "artifacts"), home / "cache")
        tokens = tokens_of([standard_library_docs(), installed_docs()], store, vocabulary=arguments.vocabulary)
        wiki = None
        if arguments.wikitext:
            only_test = wikitext(arguments.wikitext, splits=("test",))
            wiki = tokens_of([only_test], store, held_out_share=0, tokenizer_of=tokens)
        print(
            f"{arguments.tokens:,} tokens each, context {arguments.context}, {arguments.batch:,} tokens an update, "
            f"{arguments.threads} threads, of {TokenDataset.open(tokens, 'train').token_count:,} tokens of text",
            flush=True,
        )
        report(tournament(tokens, wiki, Path(directory), arguments), arguments)


if __name__ == "__main__":
    main()
