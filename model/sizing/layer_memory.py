"""What one layer takes while training on a GPU, in bytes a token: counted from the operations, one by one.

Two figures a part: `kept` from its forward to its backward pass, and the `peak` while its backward runs, what is still
kept included and the gradient it is given not. `element_bytes` is 2 in bf16 and 4 in fp32; what operations hold in
float32 whatever the precision (decays, states, scores of chunks, gated norms) counts 4. Buffers of a few tiles inside
an operation are left out.

`fused` stands for flash-linear-attention's, mamba_ssm's and flash-attn's kernels (fla 0.6.0 `ops/gla/chunk.py`,
`ops/gated_delta_rule/chunk.py`; mamba_ssm 2.3.2 `ops/triton/ssd_combined.py`; flash-attn 2.8.3 `flash_api.cpp`), else
our own operations in PyTorch. With `sequence_parallel` tokens are those of the slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.ops import gated_delta_rule, gated_linear_attention, state_space_duality

_FLOAT32 = 4
_FUSED_CHUNK = 64  # fla's


@dataclass(frozen=True)
class Execution:
    """How the operations run."""

    element_bytes: int
    fused: bool
    sequence_parallel: int = 1


@dataclass(frozen=True)
class PartBytes:
    """Bytes a token of one part of a layer."""

    kept: float
    peak: float


def mixer_bytes(kind: str, config: ModelConfig, execution: Execution) -> PartBytes:
    """A mixer's, from its normed input (not counted) to its output; raises ConfigurationError for an unknown kind."""
    if kind not in _MIXERS:
        raise ConfigurationError(f"the memory of mixer {kind!r} is not known; known: {', '.join(sorted(_MIXERS))}")
    return _MIXERS[kind](config, execution)


def feed_forward_bytes(config: ModelConfig, execution: Execution) -> PartBytes:
    """The SwiGLU's: gate, its activation, the other half and their product; and the gradients of two of them."""
    inner = config.feed_forward_width * execution.element_bytes
    return PartBytes(kept=4 * inner, peak=6 * inner)


def _attention(config: ModelConfig, execution: Execution) -> PartBytes:
    """Queries, keys, values, the output, a normaliser a head; in the backward pass the gradients of all, and the
    kernel's float32 sum of the queries' gradient. Only flash-attn takes grouped heads without repeating them.
    """
    element, width = execution.element_bytes, config.width
    own = width * element
    shared = execution.sequence_parallel > 1
    copies = math.lcm(config.key_value_heads, execution.sequence_parallel) // config.key_value_heads
    narrow = copies * config.key_value_heads * config.head_dim * element
    in_16_bits = element < _FLOAT32
    flash = execution.fused and in_16_bits
    normalisers = _FLOAT32 * config.attention_heads
    if flash:
        kept = own + 2 * narrow + own + normalisers
        gradients = own + 2 * narrow + (2 * own if narrow < own else 0) + normalisers
    else:
        rows = own + 2 * narrow if shared else own
        repeated = 2 * own if narrow < own or not shared else 0
        kept = rows + repeated + own + normalisers
        gradients = 3 * own
    received = own if shared else 0  # the exchanged output, which the output projection reads
    peak = kept + own + gradients + (_FLOAT32 * width if in_16_bits else 0)
    if config.query_key_norm:
        heads = config.attention_heads + config.key_value_heads
        normed = heads * (config.head_dim * element + _FLOAT32)
        kept, peak = kept + normed, peak + normed
    return PartBytes(kept + received, peak)


def _hgrn2(config: ModelConfig, execution: Execution) -> PartBytes:
    element, width, head = execution.element_bytes, config.width, config.hgrn2_head_dim
    inputs = 3 * element * width if config.short_convolution else 0
    if execution.fused:
        # Activations of queries, queries, keys, values, the norm's input and output; in float32 the gate's two
        # steps, the sums of decays and the scores of chunks.
        scores = _FLOAT32 * width / head * _FUSED_CHUNK
        kept = inputs + 6 * element * width + 3 * _FLOAT32 * width + scores
        # The kernel makes the states and their gradients, and two gradients each of queries and keys, in float32.
        states = 2 * _FLOAT32 * width * head / _FUSED_CHUNK
        peak = kept + states + scores + 5 * _FLOAT32 * width
        if execution.sequence_parallel > 1:
            before = 4 * _FLOAT32 * width  # the state before the slice has a graph of its own
            kept, peak = kept + before, peak + before
        return PartBytes(kept, peak)
    chunk = gated_linear_attention.CHUNK_SIZES[0]
    scores, states = _FLOAT32 * width / head * chunk, _FLOAT32 * width * head / chunk
    kept = inputs + 3 * element * width + 6 * _FLOAT32 * width + scores + states
    return PartBytes(kept, kept + (9 * _FLOAT32 - 2 * element) * width + 3 * states + scores)


def _gated_deltanet(config: ModelConfig, execution: Execution) -> PartBytes:
    element, heads = execution.element_bytes, config.gated_deltanet_head_count
    key_dim = config.gated_deltanet_head_dim
    keys = heads * key_dim
    values = keys * config.gated_deltanet_value_expansion
    if execution.fused:
        # Inputs of convolutions and of the gated norm, normalised queries and keys, values, triangular inverses.
        copies = 2 * element * keys if element < _FLOAT32 else 0
        inverses = element * heads * _FUSED_CHUNK
        norm = 2 * _FLOAT32 * values
        kept: float = norm + 2 * _FLOAT32 * keys + element * (3 * values + 2 * keys) + copies + inverses + 28 * heads
        states = 2 * element * values * key_dim / _FUSED_CHUNK
        in_kernel = kept - norm - element * values + element * (6 * values + 5 * keys) + states
        peak = max(in_kernel, kept - element * values + 3 * _FLOAT32 * values)
        if execution.sequence_parallel > 1:
            before = element * (values + 3 * keys) + inverses  # a second run of the kernel, for the state before
            kept, peak = kept + before, peak + before + 3 * element * (values + keys)
        return PartBytes(kept, peak)
    chunk = gated_delta_rule.CHUNK_SIZE
    states = values * key_dim / chunk
    elements = 8 * keys + 6 * values + heads * (4 * chunk + 7) + states
    kept = _FLOAT32 * elements - (_FLOAT32 - element) * 2 * (keys + values)
    working = 4 * values + 4 * keys + 2 * states + 4 * heads * chunk
    return PartBytes(kept, kept + _FLOAT32 * working)


def _mamba2(config: ModelConfig, execution: Execution) -> PartBytes:
    element, inner = execution.element_bytes, config.mamba2_inner_width
    heads, shared = inner // config.mamba2_head_dim, 2 * config.mamba2_groups * config.mamba2_state_size
    projected = element * (2 * inner + shared + heads)
    # The gated norm computes in float32 from copies of what is not.
    gate = _FLOAT32 * inner if element < _FLOAT32 else 0
    if execution.fused:
        read = (_FLOAT32 + element if element < _FLOAT32 else _FLOAT32) * inner
        kept = float(projected + element * (inner + shared) + read + gate + element * inner + 12 * heads)
        before = 2 * _FLOAT32 * inner + 3.5 * shared if execution.sequence_parallel > 1 else 0.0
    else:
        states = _FLOAT32 * inner * config.mamba2_state_size / state_space_duality.CHUNK_SIZE
        kept = projected + _FLOAT32 * (inner + shared) + states + 2 * _FLOAT32 * inner + gate
        kept, before = kept + element * inner + 8 * heads + _FLOAT32, 0.0
    peak = kept - element * inner + 3 * _FLOAT32 * inner  # in the gated norm, whose two gradients are float32 too
    return PartBytes(kept + before, peak + before)


_MIXERS: dict[str, Callable[[ModelConfig, Execution], PartBytes]] = {
    "attention": _attention,
    "gated_deltanet": _gated_deltanet,
    "hgrn2": _hgrn2,
    "mamba2": _mamba2,
}
