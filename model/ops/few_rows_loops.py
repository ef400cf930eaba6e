"""The loops behind `few_rows`, compiled by numba. They take addresses: converting tensors would cost more than they do.

Arrays are float32, contiguous, and as large as the callers in `few_rows` say. Loops over the innermost dimension are
what the compiler makes vector instructions of, sums reordered as it likes (the same every time).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

# Sums may be reordered and contracted; values that are not finite stay what they are, and dividing by zero is no error.
_OPTIONS: Any = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}

_FLOAT_BYTES = 4
_LOG2_E, _LN_2, _SQRT_2 = np.float32(math.log2(math.e)), np.float32(math.log(2)), np.float32(math.sqrt(2))
#: Places of a weight that are read in turns: the processor fetches ahead at each of them, up to the end of a page.
_STREAMS = 3


def _pointer_to(kind: Any) -> Any:
    """A function for loops that turns an address into a pointer."""

    @intrinsic
    def pointer(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


_pointer, _integer_pointer = _pointer_to(types.float32), _pointer_to(types.int32)


@njit(inline="always", **_OPTIONS)
def _sigmoid(value: float) -> Any:
    return np.float32(1) / (np.float32(1) + math.exp(-value))


@njit(**_OPTIONS)
def _softmax(scores: Any, powers: int) -> None:
    """In place, with an exponential that is made of vector instructions; `powers` is room for as many floats.

    `exp(x) = 2^n 2^f`: the power of two is written as the bits of a float, `2^f` is its Taylor series around 1/2 with
    an error under 1e-8.
    """
    length = len(scores)
    bits = carray(_integer_pointer(powers), (length,))
    whole = carray(_pointer(powers), (length,))
    largest = scores[0]
    for t in range(length):
        largest = max(largest, scores[t])
    for t in range(length):
        exponent = max((scores[t] - largest) * _LOG2_E, np.float32(-126))
        floor = math.floor(exponent)
        rest = (np.float32(exponent - floor) - np.float32(0.5)) * _LN_2
        series = np.float32(1 / 5040)
        series = series * rest + np.float32(1 / 720)
        series = series * rest + np.float32(1 / 120)
        series = series * rest + np.float32(1 / 24)
        series = series * rest + np.float32(1 / 6)
        series = series * rest + np.float32(1 / 2)
        series = series * rest + np.float32(1)
        series = series * rest + np.float32(1)
        bits[t] = (np.int32(floor) + np.int32(127)) << np.int32(23)
        scores[t] = series * _SQRT_2
    total = np.float32(0)
    for t in range(length):
        scores[t] *= whole[t]
        total += scores[t]
    for t in range(length):
        scores[t] /= total


@njit(inline="always", **_OPTIONS)
def _dots(w: Any, x: Any, y: Any, i: int) -> None:
    """Row `i` of a weight with every row of `x`, in pairs, so that it is read once a pair."""
    rows, length = x.shape
    paired = rows - rows % 2
    for r in range(0, paired, 2):
        first, second = np.float32(0), np.float32(0)
        for j in range(length):
            first += w[i, j] * x[r, j]
            second += w[i, j] * x[r + 1, j]
        y[r, i] = first
        y[r + 1, i] = second
    for r in range(paired, rows):
        only = np.float32(0)
        for j in range(length):
            only += w[i, j] * x[r, j]
        y[r, i] = only


@njit(**_OPTIONS)
def _product(w: Any, x: Any, y: Any) -> None:
    """`y[r, i] = sum_j w[i, j] x[r, j]`; the weight's parts are read in turns, which keeps more of it under way."""
    size = w.shape[0]
    part = size // _STREAMS
    for i in range(part):
        for stream in range(_STREAMS):
            _dots(w, x, y, i + stream * part)
    for i in range(_STREAMS * part, size):
        _dots(w, x, y, i)


@njit("void(int64, int64, int64, int64, int64, int64)", **_OPTIONS)
def rotate(values: int, cosine: int, sine: int, rows: int, heads: int, dim: int) -> None:
    """In place; the tables `[dim]` are one position's, as `rotary_tables` makes them."""
    x = carray(_pointer(values), (rows * heads, dim))
    c = carray(_pointer(cosine), (dim,))
    s = carray(_pointer(sine), (dim,))
    half = dim // 2
    for h in range(rows * heads):
        for j in range(half):
            first, second = x[h, j], x[h, j + half]
            x[h, j] = first * c[j] + second * s[j]
            x[h, j + half] = second * c[j + half] + first * s[j + half]


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", **_OPTIONS)
def attend(
    query: int, keys: int, values: int, room: int, outputs: int,
    rows: int, groups: int, shared: int, dim: int, length: int, capacity: int,
) -> None:  # fmt: skip
    """One query token over `length` keys of `[rows, groups, capacity, dim]`; `room` is `[shared + 1, length]`."""
    q = carray(_pointer(query), (rows, groups, shared, dim))
    k = carray(_pointer(keys), (rows, groups, capacity, dim))
    v = carray(_pointer(values), (rows, groups, capacity, dim))
    scores = carray(_pointer(room), (shared, length))
    powers = room + _FLOAT_BYTES * shared * length
    y = carray(_pointer(outputs), (rows, groups, shared, dim))
    scale = np.float32(1 / math.sqrt(dim))
    for r in range(rows):
        for g in range(groups):
            for t in range(length):
                for h in range(shared):
                    score = np.float32(0)
                    for j in range(dim):
                        score += q[r, g, h, j] * k[r, g, t, j]
                    scores[h, t] = score * scale
            for h in range(shared):
                _softmax(scores[h], powers)
                for j in range(dim):
                    y[r, g, h, j] = 0
            for t in range(length):
                for h in range(shared):
                    share = scores[h, t]
                    for j in range(dim):
                        y[r, g, h, j] += share * v[r, g, t, j]


@njit("void(int64, int64, int64, int64, int64, int64)", **_OPTIONS)
def product(weight: int, inputs: int, outputs: int, rows: int, size: int, length: int) -> None:
    """`outputs[r, i] = sum_j weight[i, j] inputs[r, j]`, each weight read from memory once."""
    w = carray(_pointer(weight), (size, length))
    x = carray(_pointer(inputs), (rows, length))
    y = carray(_pointer(outputs), (rows, size))
    _product(w, x, y)


@njit("void(int64, int64, int64, int64, int64, float64)", **_OPTIONS)
def rms_norm(inputs: int, weight: int, outputs: int, rows: int, width: int, eps: float) -> None:
    x = carray(_pointer(inputs), (rows, width))
    w = carray(_pointer(weight), (width,))
    y = carray(_pointer(outputs), (rows, width))
    for r in range(rows):
        square = np.float32(0)
        for j in range(width):
            square += x[r, j] * x[r, j]
        inverse = np.float32(1 / math.sqrt(square / width + eps))
        for j in range(width):
            y[r, j] = x[r, j] * inverse * w[j]


@njit("void(int64, int64, int64, int64)", **_OPTIONS)
def gate_with_silu(gate: int, up: int, outputs: int, count: int) -> None:
    g = carray(_pointer(gate), (count,))
    u = carray(_pointer(up), (count,))
    y = carray(_pointer(outputs), (count,))
    for j in range(count):
        y[j] = g[j] * _sigmoid(g[j]) * u[j]


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, float64)", **_OPTIONS)
def feed_forward(
    norm: int, gate: int, up: int, down: int, inputs: int, room: int, outputs: int,
    rows: int, size: int, width: int, eps: float,
) -> None:  # fmt: skip
    """With the norm before and the residual around it. `room` is `[rows, width + 2 * size]`."""
    first = room + _FLOAT_BYTES * rows * width
    second = first + _FLOAT_BYTES * rows * size
    rms_norm(inputs, norm, room, rows, width, eps)
    product(gate, room, first, rows, size, width)
    product(up, room, second, rows, size, width)
    gate_with_silu(first, second, second, rows * size)
    product(down, second, outputs, rows, width, size)
    x = carray(_pointer(inputs), (rows * width,))
    y = carray(_pointer(outputs), (rows * width,))
    for j in range(rows * width):
        y[j] += x[j]


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", **_OPTIONS)
def convolution_step(
    inputs: int, weight: int, bias: int, state: int, outputs: int, new_state: int,
    rows: int, channels: int, taps: int, silu: int,
) -> None:  # fmt: skip
    """`bias` is 0 for none; `weight` is `[channels, taps]`, the states `[rows, taps - 1, channels]`."""
    x = carray(_pointer(inputs), (rows, channels))
    w = carray(_pointer(weight), (channels, taps))
    b = carray(_pointer(bias), (channels,))
    s = carray(_pointer(state), (rows, taps - 1, channels))
    y = carray(_pointer(outputs), (rows, channels))
    n = carray(_pointer(new_state), (rows, taps - 1, channels))
    for r in range(rows):
        for c in range(channels):
            y[r, c] = x[r, c] * w[c, taps - 1]
        for tap in range(taps - 1):
            for c in range(channels):
                y[r, c] += s[r, tap, c] * w[c, tap]
        for tap in range(taps - 2):
            for c in range(channels):
                n[r, tap, c] = s[r, tap + 1, c]
        for c in range(channels):
            n[r, taps - 2, c] = x[r, c]
        if bias != 0:
            for c in range(channels):
                y[r, c] += b[c]
        if silu != 0:
            for c in range(channels):
                y[r, c] *= _sigmoid(y[r, c])


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, float64)", **_OPTIONS)
def hgrn2_step(
    query: int, forget: int, value: int, lower_bound: int, state: int, outputs: int, new_state: int,
    rows: int, heads: int, dim: int, least_bound: float,
) -> None:  # fmt: skip
    """Before the activations; `lower_bound` `[heads * dim]` is 0 for none, states are `[rows, heads, dim, dim]`."""
    q = carray(_pointer(query), (rows, heads, dim))
    f = carray(_pointer(forget), (rows, heads, dim))
    v = carray(_pointer(value), (rows, heads, dim))
    bound = carray(_pointer(lower_bound), (heads, dim))
    s = carray(_pointer(state), (rows, heads, dim, dim))
    y = carray(_pointer(outputs), (rows, heads, dim))
    n = carray(_pointer(new_state), (rows, heads, dim, dim))
    scale = np.float32(1 / math.sqrt(dim))
    for r in range(rows):
        for h in range(heads):
            for j in range(dim):
                y[r, h, j] = 0
            for i in range(dim):
                key = _sigmoid(-f[r, h, i])
                if lower_bound != 0:
                    key *= np.float32(1) - max(bound[h, i], np.float32(least_bound))
                decay = np.float32(1) - key
                read = scale * q[r, h, i] * _sigmoid(q[r, h, i])
                for j in range(dim):
                    entry = decay * s[r, h, i, j] + key * v[r, h, j]
                    n[r, h, i, j] = entry
                    y[r, h, j] += read * entry


@njit(inline="always", **_OPTIONS)
def _softplus(value: float) -> Any:
    return value if value > 20 else np.float32(math.log1p(math.exp(value)))


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, float64)",
      **_OPTIONS)  # fmt: skip
def gated_delta_step(
    query: int, key: int, value: int, decay_input: int, beta_input: int, decay_rates: int, bias: int, state: int,
    outputs: int, new_state: int, rows: int, heads: int, key_dim: int, value_dim: int, eps: float,
) -> None:  # fmt: skip
    """Queries and keys before their normalisation; `decay_rates` is `A_log`; states `[rows, heads, key, value]`."""
    q = carray(_pointer(query), (rows, heads, key_dim))
    k = carray(_pointer(key), (rows, heads, key_dim))
    v = carray(_pointer(value), (rows, heads, value_dim))
    a = carray(_pointer(decay_input), (rows, heads))
    b = carray(_pointer(beta_input), (rows, heads))
    rate = carray(_pointer(decay_rates), (heads,))
    step_bias = carray(_pointer(bias), (heads,))
    s = carray(_pointer(state), (rows, heads, key_dim, value_dim))
    y = carray(_pointer(outputs), (rows, heads, value_dim))
    n = carray(_pointer(new_state), (rows, heads, key_dim, value_dim))
    correction = np.empty(value_dim, np.float32)
    for r in range(rows):
        for h in range(heads):
            query_square, key_square = np.float32(0), np.float32(0)
            for i in range(key_dim):
                query_square += q[r, h, i] * q[r, h, i]
                key_square += k[r, h, i] * k[r, h, i]
            query_scale = np.float32(1 / math.sqrt(key_dim) / math.sqrt(query_square + eps))
            key_scale = np.float32(1 / math.sqrt(key_square + eps))
            decay = np.float32(math.exp(-math.exp(rate[h]) * _softplus(a[r, h] + step_bias[h])))
            beta = _sigmoid(b[r, h])
            for j in range(value_dim):
                correction[j] = 0
                y[r, h, j] = 0
            for i in range(key_dim):
                here = k[r, h, i] * key_scale * decay
                for j in range(value_dim):
                    correction[j] += here * s[r, h, i, j]
            for j in range(value_dim):
                correction[j] = (v[r, h, j] - correction[j]) * beta
            for i in range(key_dim):
                here, read = k[r, h, i] * key_scale, q[r, h, i] * query_scale
                for j in range(value_dim):
                    entry = decay * s[r, h, i, j] + here * correction[j]
                    n[r, h, i, j] = entry
                    y[r, h, j] += read * entry


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", **_OPTIONS)
def state_space_step(
    mixed: int, step_inputs: int, bias: int, decay_rates: int, skip: int, state: int, outputs: int, new_state: int,
    rows: int, heads: int, head_dim: int, groups: int, size: int,
) -> None:  # fmt: skip
    """`mixed` is x | B | C, `decay_rates` is `A_log`; states `[rows, heads, head_dim, size]`."""
    inner = heads * head_dim
    m = carray(_pointer(mixed), (rows, inner + 2 * groups * size))
    dt = carray(_pointer(step_inputs), (rows, heads))
    step_bias = carray(_pointer(bias), (heads,))
    rate = carray(_pointer(decay_rates), (heads,))
    d = carray(_pointer(skip), (heads,))
    s = carray(_pointer(state), (rows, heads, head_dim, size))
    y = carray(_pointer(outputs), (rows, inner))
    n = carray(_pointer(new_state), (rows, heads, head_dim, size))
    for r in range(rows):
        for h in range(heads):
            group = h * groups // heads
            writes, reads = inner + group * size, inner + (groups + group) * size
            step = np.float32(_softplus(dt[r, h] + step_bias[h]))
            decay = np.float32(math.exp(-math.exp(rate[h]) * step))
            for i in range(head_dim):
                x = m[r, h * head_dim + i]
                update, read = x * step, np.float32(0)
                for j in range(size):
                    entry = decay * s[r, h, i, j] + update * m[r, writes + j]
                    n[r, h, i, j] = entry
                    read += entry * m[r, reads + j]
                y[r, h * head_dim + i] = read + d[h] * x


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, "
      "int64, int64, int64, int64, int64, int64, int64, int64, int64, float64, float64)", **_OPTIONS)  # fmt: skip
def hgrn2_layer(
    inputs: int, query: int, forget: int, value: int, output: int, query_taps: int, forget_taps: int, value_taps: int,
    query_state: int, forget_state: int, value_state: int, norm: int, lower_bound: int, state: int,
    new_query_state: int, new_forget_state: int, new_value_state: int, new_state: int, room: int, outputs: int,
    rows: int, heads: int, dim: int, taps: int, least_bound: float, eps: float,
) -> None:  # fmt: skip
    """Projections to projection; without convolutions `taps` is 0. `room` is `[7, rows, width]`."""
    width = heads * dim
    part = _FLOAT_BYTES * rows * width
    q, f, v = room, room + part, room + 2 * part
    product(query, inputs, q, rows, width, width)
    product(forget, inputs, f, rows, width, width)
    product(value, inputs, v, rows, width, width)
    if taps > 0:
        convolution_step(q, query_taps, 0, query_state, q + 3 * part, new_query_state, rows, width, taps, 0)
        convolution_step(f, forget_taps, 0, forget_state, f + 3 * part, new_forget_state, rows, width, taps, 0)
        convolution_step(v, value_taps, 0, value_state, v + 3 * part, new_value_state, rows, width, taps, 0)
        q, f, v = q + 3 * part, f + 3 * part, v + 3 * part
    mixed = room + 6 * part
    hgrn2_step(q, f, v, lower_bound, state, mixed, new_state, rows, heads, dim, least_bound)
    rms_norm(mixed, norm, room, rows, width, eps)
    product(output, room, outputs, rows, width, width)
