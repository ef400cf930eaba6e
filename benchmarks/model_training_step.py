"""Tokens a second of a training step's forward and backward, by context length and thread count.

    python -m benchmarks.model_training_step [--preset smoke] [--tokens 4096] [--threads 1 2] [--set width=512 …]

Optimizer not included. `--processes 2` runs as many copies at once, as data-parallel training does, and adds up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time

import torch

from model import HybridLM, ModelConfig, parameter_count, preset, training_flops_per_token

CONTEXTS = (256, 512, 1024)


def tokens_per_second(config: ModelConfig, context: int, tokens: int, threads: int, repeats: int) -> float:
    """Best rate over `repeats` steps of `tokens` tokens."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = HybridLM(config)
    batch = max(1, tokens // context)
    rows = torch.randint(0, config.vocabulary_size, (batch, context + 1))
    best = float("inf")
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        model.loss(rows[:, :-1], rows[:, 1:]).backward()
        best = min(best, time.perf_counter() - begin)
        model.zero_grad()
    return batch * context / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the preset to change")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a step, of each process")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    changes = {field: json.loads(value) for field, value in (change.split("=", 1) for change in arguments.set)}
    config = preset(arguments.preset).changed(**changes)
    print(f"{arguments.preset} {changes or ''}: {parameter_count(config).total / 1e6:.2f}M parameters")
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for threads in arguments.threads:
            for context in CONTEXTS:
                work = (config, context, arguments.tokens, threads, arguments.repeats)
                rates = pool.starmap(tokens_per_second, [work] * arguments.processes, chunksize=1)
                flops = sum(rates) * training_flops_per_token(config, context).total
                print(
                    f"context {context:>5}, {arguments.processes} x {threads} threads: "
                    f"{sum(rates):>7.0f} tokens/s, {flops / 1e9:.0f} GFLOP/s"
                )


if __name__ == "__main__":
    main()
