"""Gated linear attention (the recurrence inside HGRN-2) in chunks, with a hand-written backward.

`S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T`, `o_t = scale * q_t S_t` (Yang et al. 2023, arXiv:2312.06635).

Within a chunk let `G` be the running sum of `g`, `M` its value at the chunk's middle, and
`q' = q exp(G - M)`, `k' = k exp(M - G)`. Then, with `S_n` the state before chunk `n`,

    o       = tril(q' k'^T) v + q' (exp(M) S_n)
    S_{n+1} = exp(G_last) S_n + exp(G_last - M) (k'^T v)

so that one exponential a token and channel serves everything, and each step is one batched product. The
exponents of `q'` and `k'` are bounded by half a chunk's decay. That bound is measured: the largest chunk that
keeps it under `MAXIMUM_EXPONENT` is taken, so results are exact at any decay (see `_half_chunk_decay`).
The gradient of `g` needs no product of its own: `dG = q' dq' - k' dk'`, plus `S_{n+1} . dS_{n+1}` on the last.

Where processes share rows, the scan over chunks is run once from an empty state, for what the slice does to a state,
and once from the state that the slices before it give; likewise for the gradients of states. No product is repeated,
and the exchange is under way while the scores are made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops import cuda_kernels
from model.ops.untraced import untraced
from model.sequence_parallel import SequenceParallel
from model.sequence_parallel.states import StateExchange, gradient_after, state_before_slice

# exp(60) = 1e26: products with activations and sums over a chunk stay far inside float32's 3e38.
MAXIMUM_EXPONENT = 60.0
CHUNK_SIZES = (64, 32, 16, 8)
# A step of exp(-15) = 3e-7 is float32's resolution: what a stronger decay would keep cannot be seen.
MINIMUM_LOG_DECAY = -MAXIMUM_EXPONENT / (CHUNK_SIZES[-1] // 2)


@untraced
def chunk_gated_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
    sequence_parallel: SequenceParallel | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs of a whole sequence and the state after it; any length.

    `query`, `key`, `log_decay` are `[batch, time, heads, key_dim]`, `value` is `[batch, time, heads, value_dim]`
    (fla's layout), `initial_state` and the returned state `[batch, heads, key_dim, value_dim]` in float32.
    `log_decay` is at most 0. `document_starts` `[batch, time]` marks tokens before which the state is emptied.
    With `sequence_parallel` the tokens are this process's slice, and the state before it is the other processes' to
    give, not an argument.
    Computes in float32 whatever the inputs or autocast say; the output has the query's dtype. On CUDA fla's kernel
    takes its place where installed (see `model.ops.cuda_kernels`).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if cuda_kernels.takes(query, "fla"):
        if sequence_parallel is not None:
            initial_state = gated_linear_attention_state(key, value, log_decay, document_starts, sequence_parallel)
        return cuda_kernels.gated_linear_attention(
            query, key, value, log_decay, scale=scale, initial_state=initial_state, document_starts=document_starts
        )
    with torch.autocast(query.device.type, enabled=False):
        parts = tuple(part.float() for part in (query, key, value, log_decay))
        if initial_state is None:
            batch, _, heads, key_dim = query.shape
            initial_state = parts[0].new_zeros(batch, heads, key_dim, value.shape[-1])
        output, state = _ChunkedForm.apply(*parts, initial_state.float(), document_starts, scale, sequence_parallel)
    return output.to(query.dtype), state


def step_gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """One token of the recurrence, for decoding.

    `query`, `key`, `log_decay` are `[batch, heads, key_dim]`, `value` is `[batch, heads, value_dim]`, `state` is
    `[batch, heads, key_dim, value_dim]` and is not modified. Returns the output and the new state.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if cuda_kernels.takes(query, "fla"):
        token = (part.unsqueeze(1) for part in (query, key, value, log_decay))
        output, state = cuda_kernels.gated_linear_attention(*token, scale=scale, initial_state=state)
        return output.squeeze(1), state
    state = state * log_decay.float().exp().unsqueeze(-1)
    state = state.addcmul_(key.float().unsqueeze(-1), value.float().unsqueeze(-2))
    output = (query.float() * scale).unsqueeze(-2) @ state
    return output.squeeze(-2).to(query.dtype), state


class _Documents(NamedTuple):
    """Which products cross no document boundary; chunk-major, broadcast over heads."""

    same: Tensor  # [chunks, batch, 1, chunk, chunk]: query and key in one document, key not later
    reached: Tensor  # [chunks, batch, 1, chunk, 1]: 1 where the state from before the chunk is still visible
    kept: Tensor  # [chunks, batch, 1, chunk, 1]: 1 where the token is in the document that leaves the chunk
    carried: Tensor  # [chunks, batch, 1, 1, 1]: 1 where no document starts in the chunk


class _ChunkedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        initial_state: Tensor,
        document_starts: Tensor | None,
        scale: float,
        sequence_parallel: SequenceParallel | None,
    ) -> tuple[Tensor, Tensor]:
        time = query.shape[1]
        grown, middle, last, below = _decays(log_decay)
        chunk = grown.shape[2]
        scaled_query = _chunk_major(query, chunk, grown, torch.mul)
        scaled_key = _chunk_major(key, chunk, grown, torch.div)
        values = _chunk_major(value, chunk)
        documents = None if document_starts is None else _documents(document_starts, chunk)

        from_middle, to_last, over_chunk = _state_factors(middle, last, documents)
        kept_values = values if documents is None else values * documents.kept
        updates = scaled_key.transpose(-1, -2) @ kept_values
        exchange = None
        if sequence_parallel is not None:
            local_state = _last_state(over_chunk, to_last, updates)
            exchange = StateExchange(over_chunk.prod(dim=0), local_state, sequence_parallel)
        scores = torch.matmul(scaled_query, scaled_key.transpose(-1, -2))
        _hide(scores, documents)
        transitions = None
        if exchange is not None:
            initial_state, transitions = exchange.finish()
        states = _scan(initial_state, over_chunk, to_last, updates)

        outputs = scaled_query @ (states[:-1] * from_middle)
        if documents is not None:
            outputs *= documents.reached
        _add_product(outputs, scores, values)
        factors = (from_middle, to_last, over_chunk)
        ctx.save_for_backward(scaled_query, scaled_key, values, scores, grown, states, *factors, transitions)
        ctx.documents, ctx.below, ctx.scale, ctx.time = documents, below, scale, time
        ctx.sequence_parallel = sequence_parallel
        return _time_major(outputs, time, factor=scale), states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        scaled_query, scaled_key, values, scores, grown, states, *factors, transitions = ctx.saved_tensors
        from_middle, to_last, over_chunk = factors
        documents: _Documents | None = ctx.documents
        chunk, time = grown.shape[2], ctx.time
        grads = _chunk_major(grad_output.float(), chunk).mul_(ctx.scale)
        reached_grads = grads if documents is None else grads * documents.reached
        kept_values = values if documents is None else values * documents.kept

        grad_uses = scaled_query.transpose(-1, -2) @ reached_grads
        grad_state = grad_state.float()
        if ctx.sequence_parallel is not None:
            grad_before = _first_gradient(grad_state, over_chunk, from_middle, grad_uses)
            grad_state = grad_state + gradient_after(grad_before, transitions, ctx.sequence_parallel)
        grad_states = _scan_backward(grad_state, over_chunk, from_middle, grad_uses)
        grad_updates = grad_states[1:] * to_last
        grad_scores = torch.matmul(grads, values.transpose(-1, -2))
        _hide(grad_scores, documents)

        grad_query = reached_grads @ (states[:-1] * from_middle).transpose(-1, -2)
        _add_product(grad_query, grad_scores, scaled_key)
        grad_key = kept_values @ grad_updates.transpose(-1, -2)
        _add_product(grad_key, grad_scores.transpose(-1, -2), scaled_query)
        grad_value = scaled_key @ grad_updates
        if documents is not None:
            grad_value *= documents.kept
        _add_product(grad_value, scores.transpose(-1, -2), grads)

        at_last = torch.linalg.vecdot(grad_states[1:], states[1:])
        grad_decay = _decay_gradient(scaled_query, grad_query, scaled_key, grad_key, at_last)
        if ctx.below is not None:
            grad_decay.masked_fill_(ctx.below, 0.0)
        return (
            _time_major(grad_query, time, torch.mul, grown),
            _time_major(grad_key, time, torch.div, grown),
            _time_major(grad_value, time),
            grad_decay.flatten(1, 2)[:, :time],
            grad_states[0],
            None,
            None,
            None,
        )


def gated_linear_attention_state(
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    document_starts: Tensor | None,
    sequence_parallel: SequenceParallel,
) -> Tensor:
    """The state before this process's slice, with gradients: one product a head, for kernels that start from it.

    Every exponent is a sum of decays, none positive, so that this is exact at any decay.
    """
    with torch.autocast(key.device.type, enabled=False):
        key, value, log_decay = key.float(), value.float(), log_decay.float()
        from_token = log_decay.flip(1).cumsum(dim=1).flip(1)
        # Shifted, not subtracted: behind a strong decay a difference has no digits left.
        kept = functional.pad(from_token[:, 1:], (0, 0, 0, 0, 0, 1)).exp()
        over_slice = from_token[:, 0].exp().unsqueeze(-1)
        if document_starts is not None:
            document = document_starts.long().cumsum(dim=1)[:, :, None, None]
            kept = kept * (document == document[:, -1:])
            over_slice = over_slice * (document[:, -1:] == 0).squeeze(1).unsqueeze(-1)
        local_state = torch.einsum("bthk,bthv->bhkv", key * kept, value)
        return state_before_slice(over_slice, local_state, sequence_parallel)


def _decays(log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`exp(G - M)` `[batch, chunks, chunk, heads, key_dim]`; `M`, `G_last` `[chunks, batch, heads, key_dim]`.

    The last value marks decays under `MINIMUM_LOG_DECAY`, which are raised to it, or is None.
    """
    time = log_decay.shape[1]
    below = None
    for chunk in CHUNK_SIZES:
        if chunk != CHUNK_SIZES[-1] and chunk // 2 >= time:
            continue
        total = _pad(log_decay, chunk).unflatten(1, (-1, chunk))
        if _half_chunk_decay(total) <= MAXIMUM_EXPONENT:
            break
    else:
        below = total < MINIMUM_LOG_DECAY
        total = total.clamp_min(MINIMUM_LOG_DECAY)
    total = _running_sum(total)
    middle, last = total[:, :, chunk // 2 - 1].clone(), total[:, :, -1].clone()
    total.sub_(middle.unsqueeze(2)).exp_()
    return total, middle.transpose(0, 1), last.transpose(0, 1), below


def _half_chunk_decay(log_decay: Tensor) -> float:
    """The largest exponent with a chunk's middle as reference; `[batch, chunks, chunk, heads, key_dim]`."""
    return -float(log_decay.unflatten(2, (2, -1)).sum(dim=3).min())


def _running_sum(log_decay: Tensor) -> Tensor:
    """Cumulative sum over dimension 2, as whole-row additions: much faster on CPU than a strided `cumsum`."""
    total = log_decay.clone(memory_format=torch.contiguous_format)
    for step in range(1, total.shape[2]):
        total[:, :, step] += total[:, :, step - 1]
    return total


def _pad(tensor: Tensor, chunk: int) -> Tensor:
    """`tensor` with zeros appended along time up to a multiple of `chunk`."""
    missing = -tensor.shape[1] % chunk
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)


def _chunk_major(tensor: Tensor, chunk: int, factor: Tensor | None = None, operation: Any = None) -> Tensor:
    """`[batch, time, heads, dim]` to contiguous `[chunks, batch, heads, chunk, dim]`.

    With an `operation`, of `operation(tensor, factor)`: the copy costs nothing extra then.
    """
    source: Tensor = _pad(tensor, chunk).unflatten(1, (-1, chunk))
    batch, chunks, _, heads, dim = source.shape
    result = source.new_empty(chunks, batch, heads, chunk, dim)
    if operation is None:
        result.copy_(source.permute(1, 0, 3, 2, 4))
    else:
        operation(source, factor, out=result.permute(1, 0, 3, 2, 4))
    return result


def _time_major(tensor: Tensor, time: int, operation: Any = None, factor: Tensor | float | None = None) -> Tensor:
    """The way back of `_chunk_major`, cut to `time`."""
    source = tensor.permute(1, 0, 3, 2, 4)
    if factor is None:
        result = source.contiguous()
    else:
        result = torch.empty(source.shape, dtype=source.dtype, device=source.device)
        (operation or torch.mul)(source, factor, out=result)
    return result.flatten(1, 2)[:, :time]


def _documents(document_starts: Tensor, chunk: int) -> _Documents:
    starts = _pad(document_starts.long(), chunk).unflatten(1, (-1, chunk)).transpose(0, 1)
    document = starts.cumsum(dim=-1)  # [chunks, batch, chunk], 0 where the chunk's first document goes on
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=starts.device).tril()
    same = (document.unsqueeze(-1) == document.unsqueeze(-2)) & causal
    reached = (document == 0).float()
    kept = (document == document[..., -1:]).float()
    return _Documents(
        same=same.unsqueeze(2),
        reached=reached[:, :, None, :, None],
        kept=kept[:, :, None, :, None],
        carried=reached[:, :, None, -1:, None],
    )


def _state_factors(middle: Tensor, last: Tensor, documents: _Documents | None) -> tuple[Tensor, Tensor, Tensor]:
    """`exp(M)`, `exp(G_last - M)` and `exp(G_last)` as columns `[chunks, batch, heads, key_dim, 1]`."""
    over_chunk = last.exp().unsqueeze(-1)
    if documents is not None:
        over_chunk = over_chunk * documents.carried
    return middle.exp().unsqueeze(-1), (last - middle).exp().unsqueeze(-1), over_chunk


def _hide(scores: Tensor, documents: _Documents | None) -> None:
    """Zero, in place, the scores of keys that the query must not see (they may be infinite)."""
    if documents is None:
        scores.tril_()
    else:
        scores.masked_fill_(~documents.same, 0.0)


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """`target += left @ right`, in place, over all leading dimensions."""
    target.flatten(0, 2).baddbmm_(left.flatten(0, 2), right.flatten(0, 2))


def _scan(initial_state: Tensor, over_chunk: Tensor, to_last: Tensor, updates: Tensor) -> Tensor:
    """All states `[chunks + 1, batch, heads, key_dim, value_dim]`: before the first chunk to after the last."""
    states = updates.new_empty(updates.shape[0] + 1, *updates.shape[1:])
    states[0] = initial_state
    for index in range(updates.shape[0]):
        torch.mul(states[index], over_chunk[index], out=states[index + 1])
        states[index + 1].addcmul_(updates[index], to_last[index])
    return states


def _last_state(over_chunk: Tensor, to_last: Tensor, updates: Tensor) -> Tensor:
    """The last of `_scan` from an empty state, the others not kept."""
    state = torch.zeros_like(updates[0])
    for index in range(updates.shape[0]):
        state.mul_(over_chunk[index]).addcmul_(updates[index], to_last[index])
    return state


def _first_gradient(grad_state: Tensor, over_chunk: Tensor, from_middle: Tensor, grad_uses: Tensor) -> Tensor:
    """The first of `_scan_backward`, the others not kept."""
    grad = grad_state.clone()
    for index in range(grad_uses.shape[0] - 1, -1, -1):
        grad.mul_(over_chunk[index]).addcmul_(grad_uses[index], from_middle[index])
    return grad


def _scan_backward(grad_state: Tensor, over_chunk: Tensor, from_middle: Tensor, grad_uses: Tensor) -> Tensor:
    """Gradients of all states; `grad_uses[n]` is the gradient of `exp(M) S_n` from the outputs of chunk n."""
    grads = grad_uses.new_empty(grad_uses.shape[0] + 1, *grad_uses.shape[1:])
    grads[-1] = grad_state
    for index in range(grad_uses.shape[0] - 1, -1, -1):
        torch.mul(grads[index + 1], over_chunk[index], out=grads[index])
        grads[index].addcmul_(grad_uses[index], from_middle[index])
    return grads


def _decay_gradient(
    scaled_query: Tensor, grad_query: Tensor, scaled_key: Tensor, grad_key: Tensor, at_last: Tensor
) -> Tensor:
    """Gradient of `log_decay`, `[batch, chunks, chunk, heads, key_dim]`: `dG` summed from a token to the last."""
    chunks, batch, heads, chunk, key_dim = scaled_query.shape
    result = scaled_query.new_empty(batch, chunks, chunk, heads, key_dim)
    view = result.permute(1, 0, 3, 2, 4)
    torch.mul(scaled_query, grad_query, out=view)
    view.addcmul_(scaled_key, grad_key, value=-1.0)
    result[:, :, -1] += at_last.transpose(0, 1)
    for step in range(chunk - 2, -1, -1):
        result[:, :, step] += result[:, :, step + 1]
    return result
