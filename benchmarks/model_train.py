"""Training, prefill and decode of our hybrids against Hugging Face's, at equal parameters.

    python -m benchmarks.model_train [--quick] [--threads N] [--contexts 512 2048 8192] [--what training prefill decode]
                                     [--width 512 --layers 8 --parameters 28e6] [--models NAME …] [--repeats 3]

All models have the same width, layers and vocabulary and, within 2%, the same number of parameters; the feed-forward
width (for Mamba-2, which has none, the number of layers) makes up the difference. Weights are random and float32.

- training: forward, next-token cross entropy over all tokens and backward; no optimizer. One row of the context's
  length, or several up to 2048 tokens.
- prefill: one prompt into an empty cache, logits of its last token.
- decode: greedy tokens of batch 1 after a prompt of the context's length; the model called a token at a time with
  its cache, and `generate`, everything it does included.

Every repeat measures all models in an order drawn anew; the figure is the median over repeats of tokens a second, and
the ratio the median of the repeats' ratios of ours to the best Hugging Face hybrid of that same repeat. With one
thread the clock is the process's CPU time, so that other load on the machine counts less; with several the wall's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.model_peers import Candidate, Size, built, candidates, parameters
from model import HybridLM, generate, prefill

WORKS = ("training", "prefill", "decode", "generate")
TRAINING_TOKENS = 2048
LARGEST_TOKEN = 1000
# What the profiler calls matrix products, attention's fused ones included.
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear_pointwise", "flash_attention", "triangular", "conv")
_FLOPS_A_WEIGHT = {"training": 6, "prefill": 2, "decode": 2, "generate": 2}

Clock = Callable[[], float]


def training_step(model: nn.Module, tokens: Tensor) -> None:
    """Loss and gradients of `tokens` `[batch, time]`, each but the last predicting the next."""
    if isinstance(model, HybridLM):
        targets = tokens.roll(-1, dims=1)
        targets[:, -1] = -100
        loss = model.loss(tokens, targets)
    else:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    model.zero_grad()


@torch.no_grad()
def read_prompt(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Any]:
    """Logits after the last of `tokens` `[1, time]`, and the filled cache."""
    if isinstance(model, HybridLM):
        cache = model.new_cache()
        return prefill(model, tokens, cache), cache
    output = model(input_ids=tokens, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1], output.past_key_values if "past_key_values" in output else output.cache_params


@torch.no_grad()
def decode(model: nn.Module, logits: Tensor, cache: Any, count: int) -> None:
    """`count` greedy tokens after a prompt."""
    # transformers' Mamba2 has another name for its cache.
    name = "cache_params" if type(model).__name__.startswith("Mamba2") else "past_key_values"
    for _ in range(count):
        token = logits.argmax(dim=-1, keepdim=True)
        if isinstance(model, HybridLM):
            logits = model(token, cache=cache)[:, -1]
        else:
            logits = model(input_ids=token, use_cache=True, **{name: cache}).logits[:, -1]


def generated(model: nn.Module, tokens: Tensor, count: int) -> None:
    """`count` greedy tokens through the library's own entry point."""
    if isinstance(model, HybridLM):
        generate(model, tokens, count)
    else:
        model.generate(tokens, max_new_tokens=count, min_new_tokens=count, do_sample=False)  # type: ignore[operator]


def seconds(clock: Clock, work: Callable[[], object]) -> float:
    begin = clock()
    work()
    return clock() - begin


def rate(work: str, model: nn.Module, context: int, decoded: int, clock: Clock) -> float:
    """Tokens a second of one measurement."""
    generator = torch.Generator().manual_seed(context)
    rows = max(1, TRAINING_TOKENS // context) if work == "training" else 1
    tokens = torch.randint(0, LARGEST_TOKEN, (rows, context), generator=generator)
    if work == "training":
        return tokens.numel() / seconds(clock, lambda: training_step(model.train(), tokens))
    model.eval()
    if work == "prefill":
        return tokens.numel() / seconds(clock, lambda: read_prompt(model, tokens))
    if work == "decode":
        logits, cache = read_prompt(model, tokens)
        decode(model, logits, cache, 2)
        return decoded / seconds(clock, lambda: decode(model, logits, cache, decoded))
    # A prompt's time, measured apart, is no part of decoding.
    whole = seconds(clock, lambda: generated(model, tokens[:, :64], decoded))
    return decoded / max(1e-9, whole - seconds(clock, lambda: generated(model, tokens[:, :64], 1)))


def product_share(work: str, model: nn.Module, context: int, decoded: int) -> float:
    """Part of the CPU time spent in matrix products, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        rate(work, model, context, decoded, time.perf_counter)
    products = whole = 0.0
    for event in profiler.key_averages():
        whole += event.self_cpu_time_total
        if any(product in event.key for product in _PRODUCTS):
            products += event.self_cpu_time_total
    return products / whole


def peak_gflops(clock: Clock) -> float:
    """The best rate of a float32 matrix product, of MKL's and oneDNN's."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    linear = torch.ops.mkldnn._linear_pointwise
    products = (lambda: left @ right, lambda: linear(left, right, None, "none", [], ""))
    return max(2 * 1024**3 / seconds(clock, product) / 1e9 for _ in range(10) for product in products)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="context 512, one repeat")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--what", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--models", nargs="+", help="names or parts of names; all when left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also the share of matrix products in the CPU time")
    parser.add_argument("--decoded", type=int, default=32, help="tokens decoded in one measurement")
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--vocabulary", type=int, default=Size.vocabulary)
    parser.add_argument("--parameters", type=float, default=Size.parameters)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.contexts, arguments.repeats = [512], 1
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    size = Size(arguments.width, arguments.layers, arguments.vocabulary, arguments.parameters)
    chosen = [
        candidate
        for candidate in candidates(size)
        if not arguments.models or any(part.lower() in candidate.name.lower() for part in arguments.models)
    ]
    models = {candidate: built(candidate, size) for candidate in chosen}
    peak = peak_gflops(clock)
    print(f"width {size.width}, {size.layers} layers, vocabulary {size.vocabulary}, {arguments.threads} threads")
    print(f"matrix products peak at {peak:.0f} GFLOP/s")
    for work in arguments.what:
        # How long the prompt was matters little to `generate`'s overhead: it is measured after a short one.
        for context in arguments.contexts if work != "generate" else arguments.contexts[:1]:
            rates = measured(work, models, context, arguments.decoded, arguments.repeats, clock)
            report(work, context, rates, models, peak)
            if arguments.profile:
                report_products(work, context, models, arguments.decoded)


def measured(
    work: str, models: dict[Candidate, nn.Module], context: int, decoded: int, repeats: int, clock: Clock
) -> dict[Candidate, list[float]]:
    """Tokens a second of every model in every repeat, after one warm-up of the same work at a short context."""
    rates: dict[Candidate, list[float]] = defaultdict(list)
    order = list(models)
    shuffler = random.Random(0)
    for model in models.values():
        rate(work, model, min(context, 256), 2, clock)
    for _ in range(repeats):
        shuffler.shuffle(order)
        for candidate in order:
            rates[candidate].append(rate(work, models[candidate], context, decoded, clock))
    return rates


def report(
    work: str,
    context: int,
    rates: dict[Candidate, list[float]],
    models: dict[Candidate, nn.Module],
    peak: float,
) -> None:
    """One table: a line a model."""
    hybrids = [values for candidate, values in rates.items() if candidate.is_hybrid_peer]
    best = [max(repeat) for repeat in zip(*hybrids, strict=True)]
    print(f"\n{work}, {context} tokens")
    print(f"{'model':<22}{'parameters':>11}{'tokens/s':>10}{'of best hybrid':>16}{'GFLOP/s':>9}{'of peak':>9}")
    for candidate, model in models.items():
        values, count = rates[candidate], parameters(model)
        ratio = statistics.median(a / b for a, b in zip(values, best, strict=True)) if best else float("nan")
        gflops = _FLOPS_A_WEIGHT[work] * count * statistics.median(values) / 1e9
        print(
            f"{candidate.name:<22}{count / 1e6:>10.2f}M{statistics.median(values):>10.1f}{ratio:>15.2f}x"
            f"{gflops:>9.1f}{gflops / peak:>9.0%}",
            flush=True,
        )


def report_products(work: str, context: int, models: dict[Candidate, nn.Module], decoded: int) -> None:
    """The share of matrix products, a line a model."""
    for candidate, model in models.items():
        share = product_share(work, model, context, min(decoded, 8))
        print(f"{candidate.name:<22}{share:>10.0%} of the time in matrix products", flush=True)


if __name__ == "__main__":
    main()
