"""Does a curriculum of growing contexts pay? One small hybrid, one budget of tokens, three ways to spend it.

    python -m benchmarks.curriculum_long_context [--wikitext DIRECTORY] [--tokens 2000000] [--threads 2]
        [--schedules curriculum short long] [--store DIRECTORY] [--figures DIRECTORY]

- curriculum: 256, then 512, 1,024 and 2,048 tokens of context (`--contexts`), each for its share of the budget;
- short: everything at the first context;
- long: everything at the last context.

All three are trained by the pipeline's own training stage, cut into the same stages of equally many tokens, with the
same tokens an update, the same learning rates and the same initial weights: only the context differs. The texts are
whole documents (source files of the standard library, documentation of packages, WikiText's articles when its
directory is given), a tenth of which is held out. A schedule that begins as another did shares that stage with it,
and with `--store` a run that was stopped is continued where it was.

How to read it. Every held-out document of more than 2,048 tokens is cut into rows of 2,048, and each token of a row is
predicted from all tokens before it in the row. The table has the perplexity by how many tokens that were, a column for
256 of them each. All lines are of the same tokens, so compare within a column; between columns the texts differ. The
lines:

- `curriculum after ...`: its model at the end of each stage. What a stage of longer contexts teaches shows as a fall
  to the right of the context before it, beyond the fall on the left that more tokens bring to every schedule;
- `short`: the same tokens at 256. To the right of 256 it is asked for what it never saw;
- `short, never shown more than 256`: the same model with all but the last 128 to 256 tokens hidden, its best use;
- `long`: the same tokens at 2,048.

Below it, the difference in nats a token between the curriculum and the others at more than half the longest context,
with its standard error over documents. Losses do not depend on how busy the machine is; seconds do.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.training_text import installed_docs, standard_library_sources, tokens_of, wikitext  # noqa: E402
from infra.artifacts import Artifact, ArtifactStore, build_stage  # noqa: E402
from model import HybridLM, ModelConfig, load, parameter_count  # noqa: E402
from model.interface.hybrid_scoring import score_rows  # noqa: E402
from tasks.charts import GRID, INK, KEPT, PALETTE, new_chart, save_chart  # noqa: E402
from tasks.tokenization import TokenDataset  # noqa: E402
from tasks.training import STAGE, TrainingStageConfig  # noqa: E402

BUCKET_TOKENS = 256
ROWS_PER_DOCUMENT = 4
FINAL_RATE = 0.05
HELD_OUT_SHARE = 0.1
LINE_COLORS = {"curriculum": KEPT, "short": PALETTE[0], "long": PALETTE[5]}


@dataclass(frozen=True)
class HeldOut:
    """Rows of equal length from long documents; rows [rows, context + 1], documents [rows]."""

    rows: np.ndarray
    documents: np.ndarray
    sources: np.ndarray

    @property
    def context(self) -> int:
        return self.rows.shape[1] - 1


@dataclass(frozen=True)
class Line:
    """One model read in one way: nats [rows, context] of every token but the first of each row."""

    name: str
    nats: np.ndarray


def main() -> None:
    """Train the schedules, print the table, draw the figures."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        home = arguments.store or Path(directory)
        store = ArtifactStore.open(str(home / "artifacts"), home / "cache")
        sources = [standard_library_sources(), installed_docs()]
        if arguments.wikitext:
            sources.append(wikitext(arguments.wikitext))
        tokens = tokens_of(sources, store, vocabulary=arguments.vocabulary, held_out_share=HELD_OUT_SHARE)
        describe_data(tokens, arguments)
        trained = {name: train(name, tokens, store, arguments) for name in arguments.schedules}
        held_out = held_out_rows(TokenDataset.open(tokens, "validation"), arguments)
        lines = measured(trained, held_out, arguments)
        report(lines, held_out)
        if arguments.figures:
            perplexities = {line.name: bucket_perplexities(line) for line in lines}
            draw_positions(perplexities, arguments.figures / "curriculum_positions.png")
            draw_learning(trained, arguments.figures / "curriculum_learning.png")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikitext", type=Path, help="directory with validation.jsonl and test.jsonl")
    parser.add_argument("--schedules", nargs="+", choices=list(LINE_COLORS), default=list(LINE_COLORS))
    parser.add_argument("--tokens", type=int, default=2_000_000, help="budget of each schedule")
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.2, 0.2, 0.2], help="of the budget, by stage")
    parser.add_argument("--batch", type=int, default=2048, help="tokens an update")
    parser.add_argument("--rate", type=float, default=6e-3, help="peak learning rate")
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=150, help="held-out rows, at most")
    parser.add_argument("--store", type=Path, help="keep texts and checkpoints here, and use what is there")
    parser.add_argument("--figures", type=Path, help="directory for two charts")
    arguments = parser.parse_args()
    if len(arguments.shares) != len(arguments.contexts):
        parser.error("give as many --shares as --contexts")
    return arguments


def describe_data(tokens: Artifact, arguments: argparse.Namespace) -> None:
    model = model_config(arguments)
    print(
        f"{parameter_count(model).total / 1e6:.2f}M parameters, {arguments.tokens:,} tokens a schedule, "
        f"{arguments.batch:,} an update, vocabulary {arguments.vocabulary:,}, "
        f"{arguments.optimizer} at {arguments.rate:g}"
    )
    for split in ("train", "validation"):
        data = TokenDataset.open(tokens, split)
        counts = [int(data.lengths[data.sources == number].sum()) for number in range(len(data.source_names))]
        parts = ", ".join(f"{name} {count:,}" for name, count in zip(data.source_names, counts, strict=True))
        print(f"{split}: {len(data):,} documents, {data.token_count:,} tokens ({parts})", flush=True)


def model_config(arguments: argparse.Namespace) -> ModelConfig:
    """A 3:1 hybrid, heads of 64 for attention and 128 for HGRN-2."""
    return ModelConfig(
        vocabulary_size=arguments.vocabulary,
        width=arguments.width,
        layer_count=arguments.layers,
        attention_heads=arguments.width // 64,
        key_value_heads=max(1, arguments.width // 128),
        feed_forward_width=2 * arguments.width,
        maximum_context=max(arguments.contexts),
    )


def stage_configs(schedule: str, arguments: argparse.Namespace) -> list[TrainingStageConfig]:
    """The schedule's stages; of equal stages of two schedules even the names are equal, so they are trained once."""
    contexts = {
        "curriculum": arguments.contexts,
        "short": [arguments.contexts[0]] * len(arguments.contexts),
        "long": [arguments.contexts[-1]] * len(arguments.contexts),
    }[schedule]
    borders = np.concatenate([[0.0], np.cumsum(arguments.shares) / sum(arguments.shares)])
    rates = arguments.rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + np.cos(np.pi * borders)) / 2)
    return [
        TrainingStageConfig(
            name=f"stage-{number + 1}",
            context_tokens=context,
            tokens=round(arguments.tokens * float(borders[number + 1] - borders[number])),
            batch_tokens=arguments.batch,
            learning_rate=float(rates[number]),
            final_learning_rate=float(rates[number + 1]),
            warmup_steps=None if number == 0 else 0,
            schedule="warmup_stable_decay",  # over the whole stage: a straight piece of one long cosine
            decay_fraction=1.0,
            optimizer=arguments.optimizer,
            threads_per_rank=arguments.threads,
            validation_rows=max(1, 16384 // context),
            model=model_config(arguments),
        )
        for number, context in enumerate(contexts)
    ]


def train(schedule: str, tokens: Artifact, store: ArtifactStore, arguments: argparse.Namespace) -> list[Artifact]:
    """The checkpoint artifacts of the schedule's stages, each trained from the one before."""
    checkpoints: list[Artifact] = []
    for config in stage_configs(schedule, arguments):
        inputs = {"tokens": tokens} | ({"previous": checkpoints[-1]} if checkpoints else {})
        label = f"{schedule}, {config.name} at {config.context_tokens:,}"
        outcome = build_stage(STAGE, config, inputs, store, report=progress(label))
        checkpoints.append(outcome.artifact)
        metrics = outcome.artifact.manifest.metrics
        print(
            f"{label}: training loss {metrics['train/loss']:.3f}, held out {metrics['train/validation_loss']:.3f}, "
            f"{metrics['throughput/tokens_per_second']:,.0f} tokens/s{', as before' if outcome.reused else ''}",
            flush=True,
        )
    return checkpoints


def progress(label: str) -> Callable[[float, str, Mapping[str, float] | None], None]:
    """A reporter that prints a line every minute."""
    last = time.monotonic()

    def report_line(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        nonlocal last
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"  {label}: {message}", flush=True)

    return report_line


def held_out_rows(documents: TokenDataset, arguments: argparse.Namespace) -> HeldOut:
    """Rows from the beginnings of long documents, the first row of each before the second of any."""
    context = max(arguments.contexts)
    places = [
        (row, number)
        for number, length in enumerate(documents.lengths)
        for row in range(min(ROWS_PER_DOCUMENT, (int(length) - 1) // context))
    ]
    if not places:
        raise SystemExit(f"no held-out document has more than {context} tokens: give --wikitext or shorter --contexts")
    # By a fixed shuffle, so that a cut to `--rows` takes from all sources.
    shuffle = np.random.default_rng(0).permutation(len(places))
    chosen = sorted((places[index] for index in shuffle), key=lambda place: place[0])[: arguments.rows]
    rows = [documents.document(number)[row * context : row * context + context + 1] for row, number in chosen]
    numbers = np.array([number for _, number in chosen])
    return HeldOut(np.stack(rows).astype(np.int64), numbers, documents.sources[numbers])


def measured(trained: Mapping[str, Sequence[Artifact]], held_out: HeldOut, arguments: argparse.Namespace) -> list[Line]:
    """Every line of the table, top to bottom."""
    lines = []
    for schedule, checkpoints in trained.items():
        chosen = checkpoints if schedule == "curriculum" else checkpoints[-1:]
        for artifact, context in zip(chosen, arguments.contexts if schedule == "curriculum" else [0], strict=True):
            model = load(artifact.directory / "model").eval()
            name = f"curriculum after {context:,}" if schedule == "curriculum" else schedule
            lines.append(Line(name, whole_rows(model, held_out)))
        if schedule == "short":
            context = arguments.contexts[0]
            lines.append(Line(f"short, never shown more than {context}", in_windows(model, held_out, context)))
    return lines


def whole_rows(model: HybridLM, held_out: HeldOut) -> np.ndarray:
    """[rows, context] nats given everything before in the row."""
    return -np.stack(score_rows(model, held_out.rows.tolist()))


def in_windows(model: HybridLM, held_out: HeldOut, window: int) -> np.ndarray:
    """[rows, context] nats given half a window to a whole window before (fewer where the row begins)."""
    stride = window // 2
    result = np.empty((len(held_out.rows), held_out.context))
    starts = range(0, held_out.context - stride, stride)
    views = [row[start : start + window + 1] for row in held_out.rows for start in starts]
    for index, scores in enumerate(score_rows(model, views)):
        row, start = index // len(starts), starts[index % len(starts)]
        kept = 0 if start == 0 else stride
        result[row, start + kept : start + len(scores)] = -scores[kept:]
    return result


def bucket_perplexities(line: Line) -> list[float]:
    """Perplexity of each `BUCKET_TOKENS` positions."""
    context = line.nats.shape[1]
    return [
        math.exp(float(line.nats[:, first : first + BUCKET_TOKENS].mean()))
        for first in range(0, context, BUCKET_TOKENS)
    ]


def report(lines: Sequence[Line], held_out: HeldOut) -> None:
    """The table, and the differences at long positions."""
    context = held_out.context
    count = len(np.unique(held_out.documents))
    print(
        f"\nperplexity by tokens seen before, {len(held_out.rows)} rows of {context:,} from {count} held-out documents"
    )
    ends = [min(first + BUCKET_TOKENS, context) for first in range(0, context, BUCKET_TOKENS)]
    print(f"{'':<36}" + "".join(f"{'to ' + format(end, ','):>10}" for end in ends))
    for line in lines:
        print(f"{line.name:<36}" + "".join(f"{value:>10.2f}" for value in bucket_perplexities(line)))
    final = [line for line in lines if line.name.startswith("curriculum")][-1:]
    others = [line for line in lines if line not in final]
    for line in others if final else []:
        mean, error = difference(final[0], line, held_out, context // 2)
        print(
            f"beyond {context // 2:,} tokens the curriculum's end takes {mean:+.4f} ± {error:.4f} nats a token "
            f"({math.expm1(mean):+.1%} perplexity) against {line.name}"
        )


def difference(one: Line, other: Line, held_out: HeldOut, first: int) -> tuple[float, float]:
    """Mean of one's nats less the other's from position `first` on, and its standard error over documents."""
    by_row = (one.nats - other.nats)[:, first:].mean(axis=1)
    by_document = np.array([by_row[held_out.documents == number].mean() for number in np.unique(held_out.documents)])
    return float(by_row.mean()), float(by_document.std(ddof=1) / math.sqrt(len(by_document)))


def draw_positions(perplexities: Mapping[str, Sequence[float]], path: Path) -> None:
    """Perplexity against position, a line for each of the table's."""
    figure, axes = new_chart("Held-out perplexity by how much context was there", rows=9)
    stages = [name for name in perplexities if name.startswith("curriculum")]
    for name, values in perplexities.items():
        places = [(place + 0.5) * BUCKET_TOKENS for place in range(len(values))]
        if name in stages[:-1]:
            style: dict[str, Any] = {"linewidth": 1, "alpha": 0.4 + 0.2 * stages.index(name), "linestyle": "--"}
        else:
            line = ":" if "never shown" in name else "-"
            style = {"linewidth": 2, "marker": "o", "markersize": 4, "linestyle": line}
        axes.plot(places, values, color=LINE_COLORS[name.split()[0].strip(",")], label=name, **style)
    # A model far out of its depth must not flatten all other lines.
    ordinary = [max(values) for name, values in perplexities.items() if name != "short"]
    if ordinary:
        axes.set_ylim(top=1.1 * max(ordinary))
    axes.set_xlabel("tokens of the document seen before", color=INK, fontsize=9)
    axes.set_ylabel("perplexity", color=INK, fontsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_chart(figure, path)


def draw_learning(trained: Mapping[str, Sequence[Artifact]], path: Path) -> None:
    """Loss over the whole budget, stage after stage: in training as running means, and held out (marks)."""
    figure, axes = new_chart("Learning curves", rows=9)
    borders = [0]
    for schedule, checkpoints in trained.items():
        entries: list[dict[str, float]] = []
        borders = [0]
        for artifact in checkpoints:
            history = [json.loads(line) for line in artifact.path("history.jsonl").read_text().splitlines()]
            entries += [entry | {"tokens": entry["tokens"] + borders[-1]} for entry in history]
            borders.append(int(entries[-1]["tokens"]))
        losses = running_mean(np.array([entry["loss"] for entry in entries]), max(1, len(entries) // 40))
        color = LINE_COLORS[schedule]
        axes.plot([entry["tokens"] / 1e6 for entry in entries], losses, color=color, linewidth=1, alpha=0.5)
        measured = [entry for entry in entries if "validation_loss" in entry]
        places = [entry["tokens"] / 1e6 for entry in measured]
        held_out = [entry["validation_loss"] for entry in measured]
        axes.plot(places, held_out, "o-", color=color, linewidth=1.5, markersize=3, label=f"{schedule}, held out")
    axes.grid(axis="x", visible=False)
    for border in borders[1:-1]:
        axes.axvline(border / 1e6, color=INK, linewidth=0.8, linestyle=":")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("million tokens; dotted: where a stage ends", color=INK, fontsize=9)
    axes.set_ylabel("nats a token, at the context of the stage", color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_chart(figure, path)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place (fewer at the beginning)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


if __name__ == "__main__":
    main()
