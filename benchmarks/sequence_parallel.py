"""Rows shared by two processes, against one process with as many threads, and against DeepSpeed's Ulysses attention.

    python -m benchmarks.sequence_parallel [--tokens 4096] [--width 512] [--repeats 5] [--work-only]

- attention: ours (queries, keys and values in one exchange) against `deepspeed.sequence.layer.DistributedAttention`
  (an exchange each) around the same attention, in turns; results are checked to be equal first.
- models: loss and backward of one row, of all four mixers. One process with one thread has all of the work, then two
  processes with one thread each half of the row. "work" is the CPU time of both over that of the one: what
  sharing costs; "time" the wall's clock against one process with two threads: what it gains. The latter says
  nothing while other programs run, and is left out with --work-only.

Bytes are what a process sends to the other, a token of the whole row, forward and backward. Times are the best of the
repeats.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from model import HybridLM, ModelConfig
from model.ops.attention import causal_attention
from model.sequence_parallel import SequenceParallel, own_slice
from model.sequence_parallel.heads import rows_of_own_heads, slice_of_all_heads

RANKS = 2
HEAD_DIM = 64
FAMILIES = {
    "hgrn2": ("hgrn2",),
    "gated_deltanet": ("gated_deltanet",),
    "mamba2": ("mamba2",),
    "attention": ("attention",),
    "hgrn2 x 3, attention": ("hgrn2", "hgrn2", "hgrn2", "attention"),
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    tokens: int
    width: int
    repeats: int
    work_only: bool


@dataclass(frozen=True)
class Cost:
    """Of one call, on one process."""

    cpu_seconds: float
    wall_seconds: float
    sent_bytes: int


class SentBytes:
    """Counts what collectives of `torch.distributed` send to other processes."""

    def __init__(self) -> None:
        self.total = 0
        self._all_to_all, self._all_gather = distributed.all_to_all_single, distributed.all_gather
        distributed.all_to_all_single = self._count_all_to_all
        distributed.all_gather = self._count_all_gather

    def _count_all_to_all(self, output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        splits = kwargs.get("input_split_sizes")
        own = input.numel() // RANKS if splits is None else splits[distributed.get_rank()]
        self.total += (input.numel() - own) * input.element_size()
        return self._all_to_all(output, input, *args, **kwargs)

    def _count_all_gather(self, gathered: list[Tensor], sent: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.total += (RANKS - 1) * sent.numel() * sent.element_size()
        return self._all_gather(gathered, sent, *args, **kwargs)


def best_costs(calls: dict[str, Callable[[], None]], repeats: int, together: bool, sent: SentBytes) -> dict[str, Cost]:
    """The cheapest run of each, in turns, after one to warm up; `together`: all processes begin at once."""
    best: dict[str, Cost] = {}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if together:
                distributed.barrier()
            sent.total, cpu, wall = 0, time.process_time(), time.perf_counter()
            call()
            cost = Cost(time.process_time() - cpu, time.perf_counter() - wall, sent.total)
            if turn:
                before = best.get(name, cost)
                best[name] = Cost(
                    min(cost.cpu_seconds, before.cpu_seconds),
                    min(cost.wall_seconds, before.wall_seconds),
                    cost.sent_bytes,
                )
    return best


class LocalAttention(nn.Module):
    """What DeepSpeed's layer calls between its exchanges."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = (part.transpose(1, 2) for part in (query, key, value))
        return causal_attention(*heads).transpose(1, 2)


def attention_costs(options: Options, context: SequenceParallel, sent: SentBytes) -> dict[str, Cost]:
    """Ours and DeepSpeed's, forward and backward, on the own slice of one row."""
    from tasks.training.engine import import_deepspeed

    deepspeed = import_deepspeed()
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    from deepspeed.sequence.layer import DistributedAttention

    peer = DistributedAttention(LocalAttention(), context.group, scatter_idx=2, gather_idx=1)
    torch.manual_seed(0)
    heads = options.width // HEAD_DIM
    rows = [torch.randn(1, options.tokens, count, HEAD_DIM) for count in (heads, heads // 2, heads // 2)]
    slices = [own_slice(row, context.rank, context.size).detach().requires_grad_() for row in rows]

    def ours() -> Tensor:
        parts = (part.transpose(1, 2) for part in rows_of_own_heads(*slices, context))
        return slice_of_all_heads(causal_attention(*parts).transpose(1, 2), context)

    def theirs() -> Tensor:
        mixed: Tensor = peer(*slices, 0)
        return mixed

    calls = {"ours": ours, "DeepSpeed": theirs}
    results = {}
    for name, call in calls.items():
        output = call()
        results[name] = [output.detach(), *torch.autograd.grad(output, slices, output.detach())]
    for one, other in zip(*results.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def step(call: Callable[[], Tensor]) -> None:
        output = call()
        torch.autograd.grad(output, slices, output.detach())

    return best_costs({name: lambda call=call: step(call) for name, call in calls.items()}, options.repeats, True, sent)


def model_costs(options: Options, context: SequenceParallel | None, sent: SentBytes) -> dict[str, Cost]:
    """Loss and backward of one row, or of the own slice of it."""
    rank, size = (0, 1) if context is None else (context.rank, context.size)
    calls: dict[str, Callable[[], None]] = {}
    for name, pattern in FAMILIES.items():
        torch.manual_seed(0)
        heads = options.width // HEAD_DIM
        config = ModelConfig(
            width=options.width, layer_count=4, pattern=pattern, feed_forward_width=2 * options.width,
            attention_heads=heads, key_value_heads=heads // 2, maximum_context=options.tokens,
        )  # fmt: skip
        model = HybridLM(config)
        row = torch.randint(0, config.vocabulary_size, (1, options.tokens + 1))
        tokens, targets = own_slice(row[:, :-1], rank, size), own_slice(row[:, 1:], rank, size)

        def step(model: HybridLM = model, tokens: Tensor = tokens, targets: Tensor = targets) -> None:
            model.loss(tokens, targets, sequence_parallel=context).backward()

        calls[name] = step
    return best_costs(calls, options.repeats, context is not None, sent)


def shared(rank: int, directory: str, options: Options, results: Connection) -> None:
    """One of the two processes."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=RANKS)
    context, sent = SequenceParallel.of_neighbours(RANKS), SentBytes()
    results.send(model_costs(options, context, sent))
    results.send(attention_costs(options, context, sent))
    distributed.destroy_process_group()


def alone(threads: int, options: Options, results: Connection) -> None:
    """One process with the whole row."""
    torch.set_num_threads(threads)
    results.send(model_costs(options, None, SentBytes()))


def run(target: Callable[..., None], arguments: list[tuple[object, ...]], answers: int) -> list[list[Any]]:
    """Run processes at once; what each sent."""
    spawning = multiprocessing.get_context("spawn")
    pipes = [spawning.Pipe(duplex=False) for _ in arguments]
    processes = [
        spawning.Process(target=target, args=(*own, sender)) for own, (_, sender) in zip(arguments, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    received = [[receiver.recv() for _ in range(answers)] for receiver, _ in pipes]
    for process in processes:
        process.join()
    return received


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the row")
    parser.add_argument("--width", type=int, default=512, help=f"of the model; heads of {HEAD_DIM}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work-only", action="store_true", help="leave out the wall's clock")
    options = Options(**vars(parser.parse_args()))
    # As in production: waiting threads do not keep the cores from working ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with tempfile.TemporaryDirectory() as directory:
        by_rank = run(shared, [(rank, directory, options) for rank in range(RANKS)], 2)
    one_thread = run(alone, [(1, options)], 1)[0][0]
    two_threads = None if options.work_only else run(alone, [(RANKS, options)], 1)[0][0]

    print(f"{options.tokens} tokens, width {options.width}, 2 processes with 1 thread each, best of {options.repeats}")
    print("\nattention alone           ms of CPU   wall ms   bytes sent a token")
    attention = {name: [answers[1][name] for answers in by_rank] for name in by_rank[0][1]}
    for name, costs in attention.items():
        cpu, wall = sum(cost.cpu_seconds for cost in costs), max(cost.wall_seconds for cost in costs)
        print(f"{name:24s} {1e3 * cpu:10.0f} {1e3 * wall:9.0f} {_bytes_per_token(costs, options):12.0f}")
    ours, theirs = (sum(cost.cpu_seconds for cost in attention[name]) for name in ("ours", "DeepSpeed"))
    print(f"ours / DeepSpeed, CPU time: {ours / theirs:.2f}")

    print("\nmodels, 4 layers          work    time   bytes sent a token")
    for name in FAMILIES:
        costs = [answers[0][name] for answers in by_rank]
        work = sum(cost.cpu_seconds for cost in costs) / one_thread[name].cpu_seconds
        gain = "-"
        if two_threads is not None:
            gain = f"{max(cost.wall_seconds for cost in costs) / two_threads[name].wall_seconds:.2f}"
        print(f"{name:24s} {work:5.2f} {gain:>7s} {_bytes_per_token(costs, options):12.0f}")


def _bytes_per_token(costs: list[Cost], options: Options) -> float:
    return sum(cost.sent_bytes for cost in costs) / options.tokens


if __name__ == "__main__":
    main()
