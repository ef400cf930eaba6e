"""How fast rows are made and documents packed, ours against plain peers, on one core.

    python -m benchmarks.data_loading [--tokens 60000000] [--documents 10000000] [--repeats 5]

Reading: tokens a second of the sampler at several lengths of context (mean of document lengths 1,000 tokens, and long
ones between, memory-mapped shards in the page cache), against nanoGPT's loader (random slices of one array, stacked;
documents run into each other, nothing marks their borders, nothing is seen exactly once) and against rows by
Megatron-LM's indexes as a plain numpy reader makes them (the sample index in one array; documents joined row by row).
The two peers give tokens and targets, ours document ids too.

Laying out: seconds and bytes for the order of 10 million documents, against numpy's building of Megatron-LM's indexes,
and for best-fit packing of them against the textbook's best-fit decreasing with bisection (on a part of the documents,
since it takes minutes), which must give as many rows.

Figures are process CPU seconds, ours and the peer's in turn, the best of the repeats. numba must not compile within
them, so everything runs once before.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import tracemalloc
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tasks.tokenization.token_shards import SOURCES_FILE, TokenDataset, TokenShard, open_token_shard  # noqa: E402
from tasks.training.data_order import Packing, Sampler  # noqa: E402
from tasks.training.data_order.packing import PackedRows  # noqa: E402
from tasks.training.data_order.streams import SourceStream  # noqa: E402

CONTEXTS = (256, 2048, 8192, 32_768, 98_304)
TOKENS_AT_ONCE = 98_304
SHARDS = 8
LAYOUT_CONTEXT = 8192
TEXTBOOK_DOCUMENTS = 200_000


def document_lengths(count: int, seed: int = 0) -> np.ndarray:
    """[count] lengths like those of web text: log-normal, 1,100 tokens in the mean, half of them below 550."""
    lengths = np.random.default_rng(seed).lognormal(6.3, 1.2, size=count)
    return np.clip(lengths, 2, 2_000_000).astype(np.int64)


def write_corpus(directory: Path, tokens: int) -> TokenDataset:
    """Random token ids in shards."""
    lengths = document_lengths(tokens // 900)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
    generator = np.random.default_rng(1)
    for number, part in enumerate(np.array_split(lengths, SHARDS)):
        with open_token_shard(directory / f"train-{number:05d}", np.dtype("<u2")) as writer:
            documents = np.split(generator.integers(0, 50_000, size=part.sum()).astype("<u2"), np.cumsum(part)[:-1])
            writer.append(documents, np.zeros(len(part)), part * 4)
    (directory / SOURCES_FILE).write_text(json.dumps(["random"]))
    return TokenDataset([TokenShard(directory / f"train-{number:05d}") for number in range(SHARDS)], ["random"])


class NanoGptRows:
    """Random slices of one array, as nanoGPT's train.py makes its batches."""

    def __init__(self, tokens: np.ndarray, context: int) -> None:
        self._tokens = tokens
        self._context = context
        self._generator = torch.Generator().manual_seed(0)

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(self._tokens) - self._context, (rows,), generator=self._generator).tolist()
        tokens = [torch.from_numpy(self._tokens[at : at + self._context].astype(np.int64)) for at in starts]
        targets = [torch.from_numpy(self._tokens[at + 1 : at + 1 + self._context].astype(np.int64)) for at in starts]
        return torch.stack(tokens), torch.stack(targets)


class MegatronRows:
    """A document index, a sample index and a shuffled order of the samples, as Megatron-LM's GPTDataset keeps them."""

    def __init__(self, dataset: TokenDataset, context: int) -> None:
        self._dataset = dataset
        self._context = context
        lengths = dataset.lengths
        generator = np.random.RandomState(0)
        self._documents = generator.permutation(len(lengths)).astype(np.int32)
        ends = np.cumsum(lengths[self._documents])
        borders = np.arange(0, int(ends[-1]) - context, context)
        self._first = np.searchsorted(ends, borders, side="right")
        self._offsets = borders - (ends[self._first] - lengths[self._documents[self._first]])
        self._shuffled = generator.permutation(len(borders))
        self._row = 0

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        samples = torch.from_numpy(np.stack([self._sample(self._row + row) for row in range(rows)]))
        self._row += rows
        return samples[:, :-1].contiguous(), samples[:, 1:].contiguous()

    def _sample(self, row: int) -> np.ndarray:
        sample = self._shuffled[row % len(self._shuffled)]
        place, offset, left = int(self._first[sample]), int(self._offsets[sample]), self._context + 1
        parts = []
        while left > 0:
            part = self._dataset.document(int(self._documents[place % len(self._documents)]))[offset : offset + left]
            parts.append(part)
            left, place, offset = left - len(part), place + 1, 0
        return np.concatenate(parts).astype(np.int64)


def best_of_turns(turns: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Least CPU seconds of each, taking turns."""
    for turn in turns:
        turn()
    best = [float("inf")] * len(turns)
    for _ in range(repeats):
        for index, turn in enumerate(turns):
            started = time.process_time()
            turn()
            best[index] = min(best[index], time.process_time() - started)
    return best


def measure_reading(dataset: TokenDataset, repeats: int, rounds: int = 20) -> None:
    """Print million tokens a second of each way, by context."""
    everything = np.concatenate([shard.tokens for shard in dataset.shards])
    names = ("stream", "best-fit", "stream, counted", "nanoGPT slices", "Megatron indexes")
    print(f"\nreading, million tokens/s a core (batches of {TOKENS_AT_ONCE:,} tokens)")
    print(f"{'context':>9}" + "".join(f"{name:>18}" for name in names))
    for context in CONTEXTS:
        rows = TOKENS_AT_ONCE // context
        packings: tuple[Packing, ...] = ("stream", "best_fit")
        stream, packed = (
            Sampler(dataset, context_tokens=context, seed=0, stage="benchmark", packing=packing) for packing in packings
        )
        plain, megatron = NanoGptRows(everything, context), MegatronRows(dataset, context)

        def many(batch: Callable[[int], object]) -> Callable[[], None]:
            return lambda: [batch(number) for number in range(rounds)] and None

        seconds = best_of_turns(
            [
                many(lambda number, rows=rows, sampler=stream: sampler.batch(number * rows, rows)),
                many(lambda number, rows=rows, sampler=packed: sampler.batch(number * rows, rows)),
                many(lambda number, rows=rows, sampler=stream: sampler.target_count(number * rows, rows)),
                many(lambda number, rows=rows, peer=plain: peer.batch(rows)),
                many(lambda number, rows=rows, peer=megatron: peer.batch(rows)),
            ],
            repeats,
        )
        rates = [rows * context * rounds / each / 1e6 for each in seconds]
        print(f"{context:9,}" + "".join(f"{rate:18,.1f}" for rate in rates))


def bins_by_bisection(sizes: np.ndarray, capacity: int) -> int:
    """The number of bins of the textbook's best-fit decreasing, rooms kept in a sorted list."""
    rooms: list[int] = []
    for size in np.sort(sizes)[::-1].tolist():
        place = bisect_left(rooms, size)
        room = rooms.pop(place) if place < len(rooms) else capacity
        insort(rooms, room - size)
    return len(rooms)


def traced(make: Callable[[], object]) -> tuple[object, int, int]:
    """(what it made, bytes it keeps, most bytes meanwhile)."""
    gc.collect()
    tracemalloc.start()
    made = make()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, kept, peak


def measure_layout(count: int, repeats: int) -> None:
    """Print seconds and bytes a document of an epoch's layout and of packing."""
    lengths = document_lengths(count).astype(np.int32)
    numbers = np.arange(count, dtype=np.int32)
    print(f"\nlaying out {count:,} documents of {lengths.mean():,.0f} tokens, rows of {LAYOUT_CONTEXT:,}, CPU seconds")
    print("(besides 8 bytes a document for its number and length)")

    def stream() -> SourceStream:
        made = SourceStream(numbers, lengths, LAYOUT_CONTEXT, "benchmark")
        made._layout(0)
        made._row_order(0)
        return made

    def packed() -> PackedRows:
        made = PackedRows(numbers, lengths, LAYOUT_CONTEXT, "benchmark")
        made._layout(0)
        made._row_order(0)
        return made

    def megatron() -> object:
        generator = np.random.RandomState(0)
        documents = generator.permutation(count).astype(np.int32)
        ends = np.cumsum(lengths[documents].astype(np.int64))
        borders = np.arange(0, int(ends[-1]) - LAYOUT_CONTEXT, LAYOUT_CONTEXT)
        first = np.searchsorted(ends, borders, side="right")
        return documents, first, borders - ends[first], generator.permutation(len(borders))

    def only_packing() -> PackedRows:
        return PackedRows(numbers, lengths, LAYOUT_CONTEXT, "benchmark")

    seconds = best_of_turns([stream, packed, only_packing, megatron], min(repeats, 3))
    for name, make, each in zip(
        ("stream, an epoch", "best-fit, packing and an epoch", "best-fit, packing alone", "Megatron indexes by numpy"),
        (stream, packed, only_packing, megatron),
        seconds,
        strict=True,
    ):
        _, kept, peak = traced(make)
        print(f"{name:>32} {each:7.2f} s, {kept / count:5.1f} bytes a document kept, {peak / count:5.1f} at most")
    print(f"{'padding of best-fit':>32} {packed().padded_share:10.2e} of all places")
    measure_textbook(lengths[: min(count, TEXTBOOK_DOCUMENTS)])


def measure_textbook(lengths: np.ndarray) -> None:
    """Print our packing's seconds against the textbook's, on few documents."""
    numbers = np.arange(len(lengths), dtype=np.int32)
    pieces = lengths % LAYOUT_CONTEXT
    rows = PackedRows(numbers, lengths, LAYOUT_CONTEXT, "benchmark").rows_per_epoch
    textbook = bins_by_bisection(pieces[pieces > 0], LAYOUT_CONTEXT) + int((lengths // LAYOUT_CONTEXT).sum())
    if rows != textbook:
        raise AssertionError(f"{rows} rows, the textbook has {textbook}")
    ours, theirs = best_of_turns(
        [
            lambda: PackedRows(numbers, lengths, LAYOUT_CONTEXT, "benchmark"),
            lambda: bins_by_bisection(pieces[pieces > 0], LAYOUT_CONTEXT),
        ],
        3,
    )
    print(
        f"packing {len(lengths):,} documents: {ours:.4f} s, the textbook's with bisection {theirs:.3f} s "
        f"({theirs / ours:,.0f} times as long), both {rows:,} rows"
    )


def measure_cuts(dataset: TokenDataset) -> None:
    """Print how many documents that fit into a row are cut, and the padding, by context."""
    print("\ndocuments that fit into a row but are cut, best-fit cuts none")
    print(f"{'context':>9}{'stream':>10}{'if half a row or longer':>26}{'padding of best-fit':>22}")
    lengths = dataset.lengths
    numbers = np.arange(len(lengths), dtype=np.int32)
    for context in CONTEXTS:
        stream = SourceStream(numbers, lengths.astype(np.int32), context, "benchmark")
        order, _ = stream._layout(0)
        ends = np.cumsum(lengths[order])
        begins = ends - lengths[order]
        fits = lengths[order] <= context
        cut = (begins // context != (ends - 1) // context) & fits
        packed = PackedRows(numbers, lengths.astype(np.int32), context, "benchmark")
        long = fits & (lengths[order] >= context // 2)
        print(f"{context:9,}{cut.sum() / fits.sum():10.2%}{cut[long].mean():26.2%}{packed.padded_share:22.2e}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60_000_000, help="tokens of the corpus that is read")
    parser.add_argument("--documents", type=int, default=10_000_000, help="documents that are laid out")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        dataset = write_corpus(Path(directory), arguments.tokens)
        measure_reading(dataset, arguments.repeats)
        measure_cuts(dataset)
    measure_layout(arguments.documents, arguments.repeats)


if __name__ == "__main__":
    main()
