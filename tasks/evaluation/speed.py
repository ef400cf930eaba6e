"""Prefill and decode speed, through the contract alone: any runtime is measured in the same way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model import GREEDY, GenerationError, SamplingConfig
from model.interface import GenerationSettings, ModelInterface
from tasks.evaluation.config import SpeedConfig

_PROMPT_SEEDS = (0, 1, 2)
#: So hot that every token is about equally likely: the last resort for a model that ends its texts at once.
_ANY_TOKEN = SamplingConfig(temperature=1e6, seed=0)
#: The first token, which the prompt's reading gives, and one whose end marks the last whole step.
_UNTIMED_TOKENS = 2


@dataclass(frozen=True)
class Speed:
    """Medians over the repetitions, one sequence at a time."""

    prefill_tokens: int
    prefill_tokens_per_second: float
    decode_tokens: int  # timed in each repetition; fewer than asked for when the model ends its text
    decode_tokens_per_second: float
    threads: int  # of torch


@dataclass(frozen=True)
class _Work:
    """A prompt of random tokens, and how to write after it."""

    prompt: Sequence[int]
    sampling: SamplingConfig


def measure_speed(model: ModelInterface, config: SpeedConfig, context: int) -> Speed:
    """Read a prompt of the context (or `prefill_tokens`) and give the next token; then write one token at a time.

    The prompt is shortened where the model's maximum_context leaves no room for the new tokens. Raises
    GenerationError for a context without room for any, and for a model that ends every text at once.
    """
    asked = config.decode_tokens + _UNTIMED_TOKENS
    length = _prompt_tokens(model, config, context, asked)
    work = _lasting_work(model, length, asked)
    prefills, decodes, timed = [], [], 0
    for _ in range(config.repetitions):
        reading = _step_times(model, work, 1)
        prefills.append(reading[-1] - reading[0])
        # From the first step that is surely a further token's to the last one's beginning: what sets up and closes
        # the call, which runtimes do with or without asking `cancel`, is left out.
        steps = _step_times(model, work, asked)[len(reading) - 1 : -1]
        timed = len(steps) - 1
        decodes.append((steps[-1] - steps[0]) / timed)
    return Speed(
        prefill_tokens=length,
        prefill_tokens_per_second=length / statistics.median(prefills),
        decode_tokens=timed,
        decode_tokens_per_second=1 / statistics.median(decodes),
        threads=torch.get_num_threads(),
    )


def _prompt_tokens(model: ModelInterface, config: SpeedConfig, context: int, asked: int) -> int:
    limit = model.info().maximum_context
    length = min(config.prefill_tokens or context, context, limit - asked)
    if length < 1:
        raise GenerationError(
            f"speed.decode_tokens {config.decode_tokens} leaves no room for a prompt in the model's maximum_context of "
            f"{limit}: lower it"
        )
    return length


def _lasting_work(model: ModelInterface, length: int, asked: int) -> _Work:
    """Work that writes all tokens asked for, else the one that writes most. It also warms the runtime up."""
    tried: list[tuple[int, _Work]] = []
    works = [_Work(_random_tokens(model, length, seed), GREEDY) for seed in _PROMPT_SEEDS]
    for work in [*works, _Work(works[0].prompt, _ANY_TOKEN)]:
        (completion,) = model.generate([work.prompt], _settings(work, asked))
        tried.append((completion.new_tokens, work))
        if completion.new_tokens >= asked:
            break
    written, best = max(tried, key=lambda pair: pair[0])
    if written <= _UNTIMED_TOKENS:
        raise GenerationError(f"the model ends every text within {written} tokens: its decode speed cannot be measured")
    return best


def _random_tokens(model: ModelInterface, length: int, seed: int) -> list[int]:
    """Any tokens but the separator, the same for the same seed."""
    drawn = np.random.default_rng(seed).integers(model.info().vocabulary_size - 1, size=length)
    tokens: list[int] = (drawn + (drawn >= model.separator)).tolist()
    return tokens


def _step_times(model: ModelInterface, work: _Work, new_tokens: int) -> list[float]:
    """Seconds on the clock: at the call, before every step (`cancel` is asked there), and at the end."""
    times = [time.perf_counter()]

    def note() -> bool:
        times.append(time.perf_counter())
        return False

    for _ in model.stream_batch([work.prompt], _settings(work, new_tokens), note):
        pass
    return [*times, time.perf_counter()]


def _settings(work: _Work, new_tokens: int) -> GenerationSettings:
    return GenerationSettings(maximum_new_tokens=new_tokens, sampling=work.sampling)
