"""What formulas can ask: counts, FLOPs and memory of the presets, and a little statistics. All pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy.stats import fisher_exact, norm

from model import ModelConfig, preset
from model.sizing import (
    TrainingPlacement,
    cache_size,
    gpu_training_memory,
    parameter_count,
    training_flops_per_token,
)
from tasks.audit.spans import Number, hull

_GB = 1e9
_SECONDS_PER_HOUR = 3600


def parameters(name: str, **changes: Any) -> float:
    """Parameters of a preset, with other values of some fields where given"""
    return parameter_count(_configuration(name, changes)).total


def mixer_parameters(name: str, kind: str) -> float:
    """Parameters of one mixer of that kind at the preset's width"""
    config = preset(name)
    return parameter_count(config.changed(layer_count=1, layer_kinds=(kind,))).mixers


def attention_layers(name: str) -> float:
    """Layers of a preset that are attention"""
    return preset(name).mixer_kinds.count("attention")


def layers(name: str) -> float:
    """Layers of a preset"""
    return preset(name).layer_count


def flops_per_token(name: str, context: float, **changes: Any) -> float:
    """FLOPs to train a preset on one token, forward and backward, in rows of so many tokens"""
    return training_flops_per_token(_configuration(name, changes), int(context)).total


def attention_share(name: str, context: float) -> float:
    """Share of those FLOPs that is attention's scores and weighted sums"""
    flops = training_flops_per_token(preset(name), int(context))
    return flops.mixing.get("attention", 0.0) / flops.total


def gpu_gb(
    name: str,
    context: float,
    gpus: float = 1,
    micro_batch: float = 1,
    zero_stage: float = 2,
    recomputed: float = 0,
    rows_over: float = 1,
) -> float:
    """GB on the fullest of `gpus` GPUs while training a preset in bf16 with AdamW (recomputed=1: blocks are recomputed;
    rows_over: GPUs that share a row)
    """
    placement = _placement(gpus, micro_batch, zero_stage, recomputed, rows_over)
    return gpu_training_memory(preset(name), int(context), placement).total / _GB


def activation_gb(name: str, context: float, micro_batch: float = 1, recomputed: float = 0) -> float:
    """GB of them that wait for the backward pass or are needed while it runs"""
    memory = gpu_training_memory(preset(name), int(context), _placement(1, micro_batch, 2, recomputed, 1))
    return (memory.kept + memory.working) / _GB


def cpu_gb(name: str, context: float, gpus: float) -> float:
    """GB of the processor's memory, all GPUs together, with optimiser and weights offloaded (ZeRO-3)"""
    placement = TrainingPlacement(
        ranks=int(gpus), zero_stage=3, gradient_checkpointing=True, offload_optimizer=True, offload_parameters=True
    )
    return gpu_training_memory(preset(name), int(context), placement).cpu_total * gpus / _GB


def largest_micro_batch(name: str, context: float, gpus: float, available_gb: float) -> float:
    """Rows a GPU can train on at once in so many GB, with ZeRO-2 and recomputed blocks"""
    rows = 0
    while gpu_gb(name, context, gpus, rows + 1, recomputed=1) <= available_gb:
        rows += 1
    return rows


def cache_gb(name: str, context: float) -> float:
    """GB of keys, values and states that generation keeps for one sequence, in 16 bits"""
    return cache_size(preset(name), int(context), element_bytes=2).total / _GB


def decode_seconds(name: str, batch: float, bytes_per_second: float) -> float:
    """Seconds a token when every step reads all weights in 16 bits once for `batch` sequences"""
    return 2 * parameter_count(preset(name)).total / bytes_per_second / batch


def fisher_p(first: float, of_first: float, second: float, of_second: float) -> float:
    """Two-sided p of Fisher's exact test that two success rates differ"""
    table = [[first, of_first - first], [second, of_second - second]]
    return float(fisher_exact(table).pvalue)


def samples_to_tell(first: float, second: float) -> float:
    """Samples of each that show two rates to differ: 5% two-sided, power 80%, normal approximation"""
    quantiles = float(norm.ppf(0.975) + norm.ppf(0.8))
    return quantiles**2 * (first * (1 - first) + second * (1 - second)) / (first - second) ** 2


def spread(*values: float) -> float:
    """Largest less smallest"""
    return max(values) - min(values)


def symbols(text: str, symbol: str) -> float:
    """How often a symbol stands in a text"""
    return text.count(symbol)


def _smallest(*values: float) -> float:
    """The smallest"""
    return min(values)


def _either(*values: Number) -> Number:
    """The range that holds all of these"""
    return hull(*values)


def _logarithm(value: float) -> float:
    """Natural logarithm"""
    return math.log(value)


def _exponential(value: float) -> float:
    """e to that power"""
    return math.exp(value)


#: By the name that formulas use: what knows nothing of models,
STATISTICS: dict[str, Callable[..., Number]] = {
    "either": _either, "smallest": _smallest, "spread": spread, "log": _logarithm, "exp": _exponential,
    "symbols": symbols, "fisher_p": fisher_p, "samples_to_tell": samples_to_tell,
}  # fmt: skip
#: and everything.
FUNCTIONS: dict[str, Callable[..., Number]] = {
    function.__name__: function
    for function in (
        parameters, mixer_parameters, attention_layers, layers, flops_per_token, attention_share, gpu_gb, activation_gb,
        cpu_gb, largest_micro_batch, cache_gb, decode_seconds,
    )
} | STATISTICS  # fmt: skip


def _configuration(name: str, changes: dict[str, Any]) -> ModelConfig:
    """A preset with changes; a `pattern` is written "hgrn2 5:1": five of that kind and one of attention."""
    if "pattern" in changes:
        kind, _, ratio = changes["pattern"].partition(" ")
        linear, _, attention = ratio.partition(":")
        changes = changes | {"pattern": (*(kind,) * int(linear), *("attention",) * int(attention))}
    return preset(name).changed(**changes) if changes else preset(name)


def _placement(
    gpus: float, micro_batch: float, zero_stage: float, recomputed: float, rows_over: float
) -> TrainingPlacement:
    stage: Any = int(zero_stage)
    return TrainingPlacement(
        ranks=int(gpus),
        zero_stage=stage,
        micro_batch=int(micro_batch),
        gradient_checkpointing=bool(recomputed),
        sequence_parallel=int(rows_over),
    )
