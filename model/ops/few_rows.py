"""What a token of decoding is made of, for a few rows at a time on CPU: loops compiled by numba, when they may run.

A batch of one is bound by reading the weights, and by the overhead of operations on tiny tensors. The compiled
product reads a weight at the machine's memory bandwidth (MKL's takes 2.8 times as long on an EPYC), and a loop over a
layer's elements replaces dozens of operations. Each function here equals the torch form that its caller has for all
other cases, to rounding, and is tested against it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.ops.hgrn2_gate import LEAST_BOUND

#: Above it torch's product is faster.
MOST_ROWS = 8
#: The loops run on one thread; with more than this many torch's own product reads memory faster.
MOST_THREADS = 2


def takes_compiled(hidden: Tensor, *others: Tensor) -> bool:
    """Whether `hidden` `[..., width]` is a few float32 rows on CPU, computed now and without gradients.

    `others` are what goes with it, all float32 on CPU too.
    """
    return (
        not torch.is_grad_enabled()
        and hidden.dtype == torch.float32
        and 0 < hidden.numel() <= MOST_ROWS * hidden.shape[-1]
        and hidden.is_cpu
        and torch.get_num_threads() <= MOST_THREADS
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and has_numba()
        and (not others or all(other.dtype == torch.float32 and other.is_cpu for other in others))
    )


def is_readable(weight: Tensor) -> bool:
    """Whether the loops can read a weight."""
    return weight.dtype == torch.float32 and weight.is_cpu and weight.is_contiguous()


def product(hidden: Tensor, weight: Tensor) -> Tensor:
    """`hidden @ weight.T`; `[..., in]`, `[out, in]`, both float32 and the weight contiguous, to `[..., out]`."""
    hidden = hidden.contiguous()
    size, length = weight.shape
    output = hidden.new_empty(*hidden.shape[:-1], size)
    rows = hidden.numel() // length
    loops().product(weight.data_ptr(), hidden.data_ptr(), output.data_ptr(), rows, size, length)
    return output


def products(hidden: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`product` of the same `hidden` with each of several weights."""
    hidden = hidden.contiguous()
    length = hidden.shape[-1]
    rows, address, multiply = hidden.numel() // length, hidden.data_ptr(), loops().product
    outputs = []
    for weight in weights:
        output = hidden.new_empty(*hidden.shape[:-1], len(weight))
        multiply(weight.data_ptr(), address, output.data_ptr(), rows, len(weight), length)
        outputs.append(output)
    return tuple(outputs)


def feed_forward(hidden: Tensor, norm: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """`hidden + down(silu(gate(x)) * up(x))` of `x = rms_norm(hidden, norm, eps)`, with the weights of a SwiGLU."""
    hidden = hidden.contiguous()
    size, width = gate.shape
    rows = hidden.numel() // width
    room, output = hidden.new_empty(rows * (width + 2 * size)), torch.empty_like(hidden)
    parts = (norm, gate, up, down, hidden, room, output)
    loops().feed_forward(*(part.data_ptr() for part in parts), rows, size, width, eps)
    return output


def hgrn2_layer(
    hidden: Tensor,
    projections: Sequence[Tensor],
    convolutions: Sequence[Tensor],
    inputs: Sequence[Tensor],
    norm: Tensor,
    eps: float,
    lower_bound: Tensor | None,
    state: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One token of an HGRN-2 mixer, `[rows, 1, width]`, from its projections' weights q, f, i and o to its output.

    `convolutions` are the weights of q, f and i, `inputs` what they remember; both empty where there are none.
    Returns the output, what the convolutions remember next, and the next state.
    """
    hidden, state = hidden.contiguous(), state.contiguous()
    inputs = [part.float().contiguous() for part in inputs]
    rows, heads, dim, _ = state.shape
    room, output = hidden.new_empty(7, rows, heads * dim), torch.empty_like(hidden)
    remembered = tuple(torch.empty_like(part) for part in inputs)
    new_state = torch.empty_like(state)
    none = (0, 0, 0)
    taps = convolutions[0].shape[-1] if convolutions else 0
    loops().hgrn2_layer(
        hidden.data_ptr(),
        *(part.data_ptr() for part in projections),
        *((part.data_ptr() for part in convolutions) if convolutions else none),
        *((part.data_ptr() for part in inputs) if convolutions else none),
        norm.data_ptr(),
        0 if lower_bound is None else lower_bound.data_ptr(),
        state.data_ptr(),
        *((part.data_ptr() for part in remembered) if convolutions else none),
        new_state.data_ptr(), room.data_ptr(), output.data_ptr(), rows, heads, dim, taps, LEAST_BOUND, eps,
    )  # fmt: skip
    return output, remembered, new_state


def rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`heads` `[rows, 1, heads, head_dim]` turned by one position's tables."""
    output = heads.clone(memory_format=torch.contiguous_format)
    rows, _, count, dim = output.shape
    loops().rotate(output.data_ptr(), cosine.data_ptr(), sine.data_ptr(), rows, count, dim)
    return output


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`query` `[rows, heads, 1, head_dim]` over all `keys` `[rows, groups, time, head_dim]`, to the query's shape.

    Keys and values may be the filled part of larger buffers.
    """
    query = query.contiguous()
    rows, groups, length, dim = keys.shape
    shared = query.shape[1] // groups
    room, output = query.new_empty((shared + 1) * length), torch.empty_like(query)
    parts = (query, keys, values, room, output)
    capacity = keys.stride(1) // dim
    loops().attend(*(part.data_ptr() for part in parts), rows, groups, shared, dim, length, capacity)
    return output


def takes_keys(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether `attend` can read them: float32, and laid out as `[rows, groups, capacity, head_dim]`."""
    return takes_compiled(query[:, 0], keys, values) and all(
        part.stride(3) == 1
        and part.stride(2) == part.shape[3]
        and part.stride(1) == keys.stride(1)
        and (len(part) == 1 or part.stride(0) == part.shape[1] * part.stride(1))
        for part in (keys, values)
    )


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`hidden / sqrt(mean(hidden^2) + eps) * weight` over the last dimension."""
    hidden = hidden.contiguous()
    output = torch.empty_like(hidden)
    width = hidden.shape[-1]
    loops().rms_norm(hidden.data_ptr(), weight.data_ptr(), output.data_ptr(), hidden.numel() // width, width, eps)
    return output


def gate_with_silu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, elementwise."""
    gate, up = gate.contiguous(), up.contiguous()
    output = torch.empty_like(up)
    loops().gate_with_silu(gate.data_ptr(), up.data_ptr(), output.data_ptr(), up.numel())
    return output


def convolution_step(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    """One token through `short_convolution`: `inputs` `[rows, 1, channels]`; the output and the next state."""
    inputs, state = inputs.contiguous(), state.contiguous()
    output, new_state = torch.empty_like(inputs), torch.empty_like(state)
    rows, before, channels = state.shape
    loops().convolution_step(
        inputs.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr(), state.data_ptr(),
        output.data_ptr(), new_state.data_ptr(), rows, channels, before + 1, int(silu),
    )  # fmt: skip
    return output, new_state


def hgrn2_step(
    query: Tensor, forget: Tensor, value: Tensor, lower_bound: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of HGRN-2 from its pre-activations `[rows, 1, width]`: the output alike and the next state.

    Equal to `hgrn2_gate`, SiLU of the query and `step_gated_linear_attention` on `state`
    `[rows, heads, head_dim, head_dim]`.
    """
    query, forget, value, state = (part.contiguous() for part in (query, forget, value, state))
    output, new_state = torch.empty_like(value), torch.empty_like(state)
    rows, heads, dim, _ = state.shape
    bound = 0 if lower_bound is None else lower_bound.data_ptr()
    loops().hgrn2_step(
        query.data_ptr(), forget.data_ptr(), value.data_ptr(), bound, state.data_ptr(), output.data_ptr(),
        new_state.data_ptr(), rows, heads, dim, LEAST_BOUND,
    )  # fmt: skip
    return output, new_state


def gated_delta_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay_input: Tensor,
    beta_input: Tensor,
    decay_rates: Tensor,
    bias: Tensor,
    state: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """One token of Gated DeltaNet after its convolutions, all `[rows, 1, ...]`: the output and the next state.

    Equal to `l2_normalised` queries and keys, decays `-exp(decay_rates) softplus(decay_input + bias)`, strengths
    `sigmoid(beta_input)` and `step_gated_delta_rule` on `state` `[rows, heads, key_dim, value_dim]`.
    """
    parts = tuple(part.contiguous() for part in (query, key, value, decay_input, beta_input, decay_rates, bias, state))
    output, new_state = torch.empty_like(parts[2]), torch.empty_like(parts[-1])
    addresses = (part.data_ptr() for part in (*parts, output, new_state))
    loops().gated_delta_step(*addresses, *state.shape, eps)
    return output, new_state


def state_space_step(
    mixed: Tensor,
    step_inputs: Tensor,
    bias: Tensor,
    decay_rates: Tensor,
    skip: Tensor,
    state: Tensor,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """One token of Mamba-2 after its convolution: the output `[rows, 1, heads * head_dim]` and the next state.

    `mixed` `[rows, 1, ...]` is x | B | C. Equal to step sizes `softplus(step_inputs + bias)` and
    `step_state_space_duality` with rates `-exp(decay_rates)` on `state` `[rows, heads, head_dim, size]`.
    """
    parts = tuple(part.contiguous() for part in (mixed, step_inputs, bias, decay_rates, skip, state))
    rows, heads, head_dim, size = state.shape
    output, new_state = mixed.new_empty(rows, 1, heads * head_dim), torch.empty_like(parts[-1])
    addresses = (part.data_ptr() for part in (*parts, output, new_state))
    loops().state_space_step(*addresses, rows, heads, head_dim, groups, size)
    return output, new_state


@functools.cache
def has_numba() -> bool:
    """Whether the loops can be compiled here."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def loops() -> Any:
    """The module of compiled loops; numba is imported, and the loops compiled once a machine, when first needed."""
    from model.ops import few_rows_loops

    return few_rows_loops
