"""The linear mixers' recurrences in operators that ONNX has: one token, and a whole chunk from a state to a state.

Nothing here looks at the data to choose a path, works in place or solves a triangular system, because a graph can
do none of these. Every exponent is at most zero, so that results are exact at any decay: what is referenced to a
later position is so by a *difference* of running sums, cut at zero where a mask hides it anyway. Tensors are
head-major, `[batch, heads, time, dim]`, in float32; a chunk is 8 times a power of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Pairs of tokens inside a block are compared channel by channel, blocks with each other by one product.
BLOCK_TOKENS = 8
# Size of the blocks whose inverse is a series of four terms.
FIRST_BLOCK = 4


def step_gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`S = diag(a) S + k v^T`, `o = q S` (Yang et al. 2023, arXiv:2312.06635, eq. 3), for one token.

    `query`, `key`, `decay` are `[batch, heads, 1, key_dim]`, `value` `[batch, heads, 1, value_dim]`, `state`
    `[batch, heads, key_dim, value_dim]`; the scale is in the query.
    """
    state = state * decay.transpose(-1, -2) + key.transpose(-1, -2) * value
    return query @ state, state


def chunk_gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same recurrence over a chunk, by blocks (the secondary chunking of Yang et al. 2023, section 4.3).

    A query sees keys of its own block through the pairwise decays. From a key of an earlier block to the query the
    decay has three parts: to the end of the key's block, over the blocks between, from the start of the query's.
    """
    queries, keys, values, logs = (part.unflatten(2, (-1, BLOCK_TOKENS)) for part in (query, key, value, log_decay))
    # Sums in float64, because a difference of them must not lose a weak decay behind a strong one.
    within = logs.double().cumsum(dim=3)
    pairwise = _decay(within.unsqueeze(4) - within.unsqueeze(3))
    nearby = (queries.unsqueeze(4) * keys.unsqueeze(3) * pairwise).sum(dim=-1)
    mixed = _lower(nearby) @ values

    # [batch, heads, blocks, key_dim]
    ends = within[:, :, :, -1].cumsum(dim=2)
    starts = ends - within[:, :, :, -1]
    blocks = ends.shape[2]
    between = _decay(starts.unsqueeze(3) - ends.unsqueeze(2)) * torch.ones(blocks, blocks).tril(-1).unsqueeze(-1)
    from_start = queries * _decay(within)
    to_end = keys * _decay(within[:, :, :, -1:] - within)
    earlier = (to_end.unsqueeze(2) * between.unsqueeze(4)).flatten(3, 4)
    scores = from_start @ earlier.transpose(-1, -2)
    mixed = mixed.flatten(2, 3) + scores.flatten(2, 3) @ value

    from_chunk_start = from_start * _decay(starts).unsqueeze(3)
    mixed = mixed + from_chunk_start.flatten(2, 3) @ state
    to_chunk_end = (to_end * _decay(ends[:, :, -1:] - ends).unsqueeze(3)).flatten(2, 3)
    over_chunk = _decay(ends[:, :, -1:]).transpose(-1, -2)
    return mixed, state * over_chunk + to_chunk_end.transpose(-1, -2) @ value


def step_gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`S = a S`, then `S += b k (v - k^T S)`, `o = q S` (Yang et al. 2024, arXiv:2412.06464, eq. 10), one token.

    `log_decay` and `strength` are `[batch, heads, 1]`, the rest as in `step_gated_linear_attention`.
    """
    state = state * log_decay.exp().unsqueeze(-1)
    written = (value - key @ state) * strength.unsqueeze(-1)
    state = state + key.transpose(-1, -2) * written
    return query @ state, state


def chunk_gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same recurrence over a chunk in its WY form (arXiv:2412.06464, section 3.3).

    With `L` the strictly lower part of `b k k^T` decayed, what each token writes is
    `(I + L)^-1 b (v - exp(G) k S)`.
    """
    pairwise, from_start, to_end, over_chunk = _scalar_decays(log_decay)
    strength = strength.unsqueeze(-1)
    system = _strictly_lower(((key * strength) @ key.transpose(-1, -2)) * pairwise)
    written = inverse_unit_lower(system) @ (strength * (value - from_start * (key @ state)))
    mixed = from_start * (query @ state) + ((query @ key.transpose(-1, -2)) * pairwise) @ written
    return mixed, state * over_chunk + (key * to_end).transpose(-1, -2) @ written


def inverse_unit_lower(strictly_lower: Tensor) -> Tensor:
    """`(I + strictly_lower)^-1` of `[..., time, time]`, `time` being 4 times a power of two.

    Block substitution: with `X` the inverse of the diagonal blocks of one size and `C` what lies between two of them,
    the inverse of a block of twice the size is `X - X C X`. The first blocks are of 4, where the series
    `(I - L)(I + L^2)` is complete. (The same series for the whole matrix needs fewer products and loses every digit
    when keys are alike.)
    """
    time = strictly_lower.shape[-1]
    first = strictly_lower * _same_block(time, FIRST_BLOCK)
    identity = torch.eye(time)
    inverse = (identity - first) @ (identity + first @ first)
    size = FIRST_BLOCK
    while size < time:
        between = strictly_lower * (_same_block(time, 2 * size) - _same_block(time, size))
        inverse = inverse - inverse @ between @ inverse
        size *= 2
    return inverse


def _same_block(time: int, size: int) -> Tensor:
    """`[time, time]`, 1 where both positions are in one block of `size`."""
    block = torch.arange(time) // size
    return (block.unsqueeze(1) == block.unsqueeze(0)).float()


def step_state_space(
    inputs: Tensor, log_decay: Tensor, written: Tensor, read: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`S = a S + x b^T`, `y = S c` (Dao & Gu 2024, arXiv:2405.21060, eq. 1), one token.

    `inputs` `[batch, heads, 1, head_dim]` hold the time step already, `log_decay` is `[batch, heads, 1]`, `written`
    and `read` (B and C) are `[batch, heads, 1, state_size]`, `state` `[batch, heads, head_dim, state_size]`.
    """
    state = state * log_decay.exp().unsqueeze(-1) + inputs.transpose(-1, -2) * written
    return read @ state.transpose(-1, -2), state


def chunk_state_space(
    inputs: Tensor, log_decay: Tensor, written: Tensor, read: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same recurrence over a chunk: its quadratic form, and the state (arXiv:2405.21060, section 6)."""
    pairwise, from_start, to_end, over_chunk = _scalar_decays(log_decay)
    mixed = ((read @ written.transpose(-1, -2)) * pairwise) @ inputs
    mixed = mixed + from_start * (read @ state.transpose(-1, -2))
    return mixed, state * over_chunk + (inputs * to_end).transpose(-1, -2) @ written


def log1p(argument: Tensor) -> Tensor:
    """`log(1 + x)` to full precision (ONNX has no such operator): Kahan's correction of `log` by what `1 + x` lost."""
    grown = 1 + argument
    exact = torch.where(grown == 1, 1.0, grown - 1)
    return torch.where(grown == 1, argument, grown.log() * (argument / exact))


def log_sigmoid(argument: Tensor) -> Tensor:
    """`log(1 / (1 + exp(-x)))`, exact at both ends."""
    return argument.clamp_max(0) - log1p((-argument.abs()).exp())


def softplus(argument: Tensor) -> Tensor:
    """`log(1 + exp(x))`, exact at both ends."""
    return argument.clamp_min(0) + log1p((-argument.abs()).exp())


def _scalar_decays(log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decays of a chunk whose log decays are `[batch, heads, time]`.

    From each key to each query `[batch, heads, time, time]` (zero where the key is later), from the start to each
    token and from each token to the end `[batch, heads, time, 1]`, and over the chunk `[batch, heads, 1, 1]`.
    """
    # Sums in float64, as above.
    total = log_decay.double().cumsum(dim=2).unsqueeze(-1)
    last = total[:, :, -1:]
    return _lower(_decay(total - total.transpose(-1, -2))), _decay(total), _decay(last - total), _decay(last)


def _decay(exponent: Tensor) -> Tensor:
    """`exp`, in float32, of at most zero: only masked pairs, a later key before an earlier query, exceed it."""
    return exponent.float().clamp_max(0).exp()


def _lower(pairs: Tensor) -> Tensor:
    return pairs * torch.ones(pairs.shape[-2:]).tril()


def _strictly_lower(pairs: Tensor) -> Tensor:
    return pairs * torch.ones(pairs.shape[-2:]).tril(-1)
