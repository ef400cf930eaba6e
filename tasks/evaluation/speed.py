"""Prefill and decode speed of a model on this machine, and the memory it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from model import HybridLM, prefill
from tasks.evaluation.config import SpeedConfig


@dataclass(frozen=True)
class Speed:
    """Medians over the repetitions, one sequence at a time."""

    prefill_tokens: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    threads: int


def measure_speed(model: HybridLM, config: SpeedConfig, context: int) -> Speed:
    """Read a prompt of the full context (or `prefill_tokens`), then decode after it one token at a time."""
    length = min(config.prefill_tokens or context, context)
    prompt = torch.arange(length).remainder(model.config.vocabulary_size).unsqueeze(0)
    _decode_seconds(model, prompt[:, :8], 2)  # the first calls set up threads and kernels
    prefills = [_seconds(lambda: prefill(model, prompt, model.new_cache())) for _ in range(config.repetitions)]
    decodes = [_decode_seconds(model, prompt, config.decode_tokens) for _ in range(config.repetitions)]
    return Speed(
        prefill_tokens=length,
        prefill_tokens_per_second=length / statistics.median(prefills),
        decode_tokens_per_second=config.decode_tokens / statistics.median(decodes),
        threads=torch.get_num_threads(),
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _decode_seconds(model: HybridLM, prompt: torch.Tensor, tokens: int) -> float:
    """Seconds of `tokens` single steps after the prompt; the prompt's own time does not count."""
    cache = model.new_cache()
    following = prefill(model, prompt, cache).argmax(dim=-1, keepdim=True)
    started = time.perf_counter()
    for _ in range(tokens):
        following = prefill(model, following, cache).argmax(dim=-1, keepdim=True)
    return time.perf_counter() - started
