"""The gated delta rule (the recurrence inside Gated DeltaNet) in chunks, with a hand-written backward.

`S_t = a_t S_{t-1} + beta_t k_t (v_t - a_t k_t S_{t-1})^T`, `o_t = scale * q_t S_t`, `a_t = exp(g_t)` a scalar a head
(Yang et al. 2024, arXiv:2412.06464, eq. 10): the state forgets, then corrects what it stores under the key.

Within a chunk let `D_ij = a_{j+1} ... a_i` for `j <= i` and zero above, `e_i = a_1 ... a_i` and `d_j = D_{last,j}`.
With `S` the state before the chunk and `S'` after it (section 3.3 there; Bischof & Van Loan's WY form),

    L  = tril(beta k k^T * D, -1)                   what a token reads of corrections made earlier in the chunk
    T  = (I + L)^-1
    R  = T (beta v - beta e k S)                    the corrections written
    o  = (q k^T * D) R + e q S
    S' = e_last S + (d k)^T R

`D` is made by multiplying rows, not from differences of a running sum: no exponent can overflow, a weak decay
behind a strong one keeps all its digits, and a document boundary is nothing but a decay of zero. `T` is found by
forward substitution in blocks; the product form `(I - L)(I + L^2)(I + L^4)...` loses every digit when keys are alike.

The backward needs no gradient of an inverse: with `dR` the gradient of the corrections and `Y = T^T dR`, the
gradient of `L` is `-Y R^T` and that of `beta v` is `Y`. The gradient of `g` at a token sums over what decays there and
nothing else, so that strong decays leave it its digits.

Where processes share rows, what a slice does to a state is a matrix a head and a state. Both come from one more scan
over the chunks, of an identity beside an empty state; `T`, scores and all else are made once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.ops import cuda_kernels
from model.ops.untraced import untraced
from model.sequence_parallel import SequenceParallel
from model.sequence_parallel.states import StateExchange, gradient_after, state_before_slice

# The smallest that holds the whole sequence, else the largest.
CHUNK_SIZES = (16, 32, 64)
CHUNK_SIZE = CHUNK_SIZES[-1]
# Diagonal blocks of `I + L` that are inverted row by row; larger ones are put together from these.
INVERSE_BLOCK = 16
# flash-linear-attention's: keeps the direction of a vector of zeros finite.
L2_NORM_EPS = 1e-6


@untraced
def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
    sequence_parallel: SequenceParallel | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs of a whole sequence and the state after it; any length.

    `query`, `key` are `[batch, time, heads, key_dim]`, keys of length at most 1, `value` is
    `[batch, time, heads, value_dim]`, `log_decay` (at most 0) and `beta` (0 to 1) are `[batch, time, heads]`
    (fla's layout), `initial_state` and the returned state `[batch, heads, key_dim, value_dim]` in float32.
    `document_starts` `[batch, time]` marks tokens before which the state is emptied. With `sequence_parallel` the
    tokens are this process's slice, and the state before it is the other processes' to give, not an argument.
    Computes in float32 whatever the inputs or autocast say; the output has the query's dtype. On CUDA fla's kernel
    takes its place where installed (see `model.ops.cuda_kernels`).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if cuda_kernels.takes(query, "fla"):
        if sequence_parallel is not None:
            tokens = (key, value, log_decay, beta)
            initial_state = gated_delta_rule_state(
                cuda_kernels.gated_delta_rule, *tokens, document_starts, sequence_parallel
            )
        return cuda_kernels.gated_delta_rule(
            query,
            key,
            value,
            log_decay,
            beta,
            scale=scale,
            initial_state=initial_state,
            document_starts=document_starts,
        )
    with torch.autocast(query.device.type, enabled=False):
        parts = tuple(part.float() for part in (query, key, value, log_decay, beta))
        if initial_state is None:
            batch, _, heads, key_dim = query.shape
            initial_state = parts[0].new_zeros(batch, heads, key_dim, value.shape[-1])
        output, state = _ChunkedForm.apply(*parts, initial_state.float(), document_starts, scale, sequence_parallel)
    return output.to(query.dtype), state


def step_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of the recurrence, for decoding.

    `query`, `key` are `[batch, heads, key_dim]`, `value` is `[batch, heads, value_dim]`, `log_decay` and `beta`
    are `[batch, heads]`, `state` is `[batch, heads, key_dim, value_dim]` and is not modified. Returns the output
    and the new state.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if cuda_kernels.takes(query, "fla"):
        token = (part.unsqueeze(1) for part in (query, key, value, log_decay, beta))
        output, state = cuda_kernels.gated_delta_rule(*token, scale=scale, initial_state=state)
        return output.squeeze(1), state
    state = state * log_decay.float().exp()[..., None, None]
    key = key.float()
    stored = (key.unsqueeze(-2) @ state).squeeze(-2)
    correction = (value.float() - stored) * beta.float().unsqueeze(-1)
    state = state.addcmul_(key.unsqueeze(-1), correction.unsqueeze(-2))
    output = (query.float() * scale).unsqueeze(-2) @ state
    return output.squeeze(-2).to(query.dtype), state


def l2_normalised(heads: Tensor) -> Tensor:
    """`x / sqrt(sum(x^2) + eps)` over the last dimension, in float32 (fla's `l2norm`)."""
    normalised: Tensor = _L2Normalised.apply(heads.float())
    return normalised


class _ChunkedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        beta: Tensor,
        initial_state: Tensor,
        document_starts: Tensor | None,
        scale: float,
        sequence_parallel: SequenceParallel | None,
    ) -> tuple[Tensor, Tensor]:
        time = query.shape[1]
        chunk = next((size for size in CHUNK_SIZES if time <= size), CHUNK_SIZE)
        between, since_start = _decays(log_decay, document_starts, chunk)
        keys = _chunk_major(key, chunk)
        weights = beta.unsqueeze(-1)
        weighted_keys = _chunk_major(key, chunk, weights)

        transposed_keys = keys.transpose(-1, -2)
        overlaps = torch.matmul(weighted_keys, transposed_keys).mul_(between)
        inverse = unit_lower_inverse(overlaps)
        removed = inverse @ (weighted_keys * since_start)
        written = inverse @ _chunk_major(value, chunk, weights)
        kept_keys = keys * between[..., -1, :].unsqueeze(-1)
        over_chunk = since_start[..., -1:, :]
        exchange = None
        if sequence_parallel is not None:
            exchange = StateExchange(*_over_slice(over_chunk, removed, written, kept_keys), sequence_parallel)
        queries = _chunk_major(query, chunk, scale)
        scores = torch.matmul(queries, transposed_keys).mul_(between)
        transitions = None
        if exchange is not None:
            initial_state, transitions = exchange.finish()
        states = _scan(initial_state, over_chunk, removed, written, kept_keys)

        outputs = (queries * since_start) @ states[:-1]
        _add_product(outputs, scores, written)
        ctx.save_for_backward(
            value,
            beta,
            document_starts,
            queries,
            keys,
            weighted_keys,
            between,
            since_start,
            scores,
            overlaps,
            inverse,
            removed,
            written,
            states,
            transitions,
        )
        ctx.scale, ctx.sequence_parallel = scale, sequence_parallel
        return _time_major(outputs, time), states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        value, beta, document_starts, queries, keys, weighted_keys, *rest = ctx.saved_tensors
        between, since_start, scores, overlaps, inverse, removed, written, states, transitions = rest
        time, chunk = value.shape[1], between.shape[-1]
        to_last = between[..., -1, :].unsqueeze(-1)

        grads = _chunk_major(grad_output.float(), chunk)
        grad_written = scores.transpose(-1, -2) @ grads
        grad_state, over_chunk, kept_keys = grad_state.float(), since_start[..., -1:, :], keys * to_last
        grad_reads = (queries * since_start).transpose(-1, -2) @ grads
        if ctx.sequence_parallel is not None:
            grad_before = _first_gradient(grad_state, over_chunk, removed, grad_written, kept_keys, grad_reads)
            grad_state = grad_state + gradient_after(grad_before, transitions, ctx.sequence_parallel)
        grad_states = _scan_backward(grad_state, over_chunk, removed, grad_written, kept_keys, grad_reads)
        grad_targets = inverse.transpose(-1, -2) @ grad_written

        transposed = written.transpose(-1, -2)
        grad_scores, grad_overlaps = grads @ transposed, grad_targets @ transposed
        pairs = (grad_scores * scores).addcmul_(grad_overlaps, overlaps, value=-1.0)
        grad_scores.mul_(between)
        grad_overlaps.mul_(between).diagonal(dim1=-2, dim2=-1).zero_()

        old = states[:-1].transpose(-1, -2)
        from_state, removed_from_state = (grads @ old).mul_(since_start), (grad_targets @ old).mul_(since_start)
        to_state = (written @ grad_states[1:].transpose(-1, -2)).mul_(to_last)
        reads = (queries * from_state).addcmul_(weighted_keys, removed_from_state, value=-1.0).sum(dim=-1)
        carried = torch.linalg.vecdot(grad_states[1:].flatten(-2), states[:-1].flatten(-2)) * since_start[..., -1, 0]
        grad_decay = _decay_gradient(pairs, reads, (keys * to_state).sum(dim=-1), carried)

        grad_query = from_state
        _add_product(grad_query, grad_scores, keys)
        grad_row = removed_from_state
        _add_product(grad_row, grad_overlaps, keys)
        grad_key = to_state
        _add_product(grad_key, grad_scores.transpose(-1, -2), queries)
        _add_product(grad_key, grad_overlaps.transpose(-1, -2), weighted_keys, factor=-1.0)

        grad_beta = _time_major((keys * grad_row).sum(dim=-1, keepdim=True), time).neg_()
        by_time = _time_major(grad_targets, time)
        grad_beta.squeeze_(-1).add_(torch.linalg.vecdot(value, by_time))
        grad_decay = _time_major(grad_decay.unsqueeze(-1), time).squeeze(-1)
        if document_starts is not None:
            grad_decay = grad_decay.masked_fill(document_starts.unsqueeze(-1), 0.0)
        weights = beta.unsqueeze(-1)
        return (
            _time_major(grad_query, time).mul_(ctx.scale),
            _time_major(grad_key, time).addcmul_(_time_major(grad_row, time), weights, value=-1.0),
            by_time.mul_(weights),
            grad_decay,
            grad_beta,
            grad_states[0],
            None,
            None,
            None,
        )


def gated_delta_rule_state(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    document_starts: Tensor | None,
    sequence_parallel: SequenceParallel,
) -> Tensor:
    """The state before this process's slice, with gradients, by a `kernel` that is called as the operation is.

    The kernel's own state is made to hold two: an empty one, and beside it an identity that nothing is written to.
    """
    batch, _, heads, key_dim = key.shape
    identity = torch.eye(key_dim, device=key.device).expand(batch, heads, -1, -1)
    empty = identity.new_zeros(batch, heads, key_dim, value.shape[-1])
    beside = value.new_zeros(*value.shape[:-1], key_dim)
    _, after = kernel(
        key,
        key,
        torch.cat([value, beside], dim=-1),
        log_decay,
        beta,
        initial_state=torch.cat([empty, identity], dim=-1),
        document_starts=document_starts,
    )
    local_state, transition = after.split([value.shape[-1], key_dim], dim=-1)
    return state_before_slice(transition, local_state, sequence_parallel)


def _decays(log_decay: Tensor, document_starts: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    """`D` `[chunks, batch, heads, chunk, chunk]` and `e` `[chunks, batch, heads, chunk, 1]`."""
    decay = log_decay.exp()
    if document_starts is not None:
        decay.masked_fill_(document_starts.unsqueeze(-1), 0.0)
    decay = _chunk_major(decay.unsqueeze(-1), chunk, padding=1.0)
    between = decay.new_zeros(*decay.shape[:-1], chunk)
    between.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    for row in range(1, chunk):
        torch.mul(between[..., row - 1, :row], decay[..., row, :], out=between[..., row, :row])
    return between, decay.cumprod(dim=-2)


def unit_lower_inverse(matrices: Tensor) -> Tensor:
    """`(I + tril(M, -1))^-1` of `[..., size, size]`, by forward substitution; `size` is `INVERSE_BLOCK` times 2^n.

    Blocks on the diagonal row by row, all at once; then pairs of neighbours, `[[A, 0], [B, C]]` to
    `[[A^-1, 0], [-C^-1 B A^-1, C^-1]]`, until one is left. As exact as a triangular solve, and only products.
    """
    size, lead = matrices.shape[-1], matrices.shape[:-2]
    inverse = torch.zeros_like(matrices)
    _invert_blocks(_diagonal_blocks(matrices, INVERSE_BLOCK), _diagonal_blocks(inverse, INVERSE_BLOCK))
    block = INVERSE_BLOCK
    while block < size:
        pairs, inverses = _diagonal_blocks(matrices, 2 * block), _diagonal_blocks(inverse, 2 * block)
        upper, lower = inverses[..., :block, :block], inverses[..., block:, block:]
        inverses[..., block:, :block] = (lower @ (pairs[..., block:, :block] @ upper)).neg_()
        block *= 2
    return inverse.view(*lead, size, size)


def _diagonal_blocks(matrices: Tensor, block: int) -> Tensor:
    """A view `[..., size / block, block, block]` of the blocks on the diagonal."""
    count = matrices.shape[-1] // block
    grid: Tensor = matrices.unflatten(-1, (count, block)).unflatten(-3, (count, block))
    return grid.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _invert_blocks(blocks: Tensor, inverses: Tensor) -> None:
    """Row i of an inverse is `e_i - sum_{j<i} M_ij row_j`; blocks lie innermost, so that rows are long."""
    size = blocks.shape[-1]
    lead = blocks.shape[:-2]
    lower = blocks.movedim((-2, -1), (0, 1)).reshape(size, size, -1)
    rows = torch.zeros_like(lower)
    rows.diagonal().fill_(1.0)
    for row in range(1, size):
        torch.sum(lower[row, :row, None] * rows[:row, :row], dim=0, out=rows[row, :row]).neg_()
    inverses.copy_(rows.view(size, size, *lead).movedim((0, 1), (-2, -1)))


def _scan(initial_state: Tensor, over_chunk: Tensor, removed: Tensor, written: Tensor, kept_keys: Tensor) -> Tensor:
    """All states `[chunks + 1, batch, heads, key_dim, value_dim]`; `written` becomes the corrections, in place."""
    states = written.new_empty(written.shape[0] + 1, *initial_state.shape)
    states[0] = initial_state
    flat = states.flatten(1, 2)
    removed, kept_keys = removed.flatten(1, 2), kept_keys.flatten(1, 2).transpose(-1, -2)
    for index, corrections in enumerate(written.flatten(1, 2)):
        corrections.baddbmm_(removed[index], flat[index], alpha=-1.0)
        torch.mul(states[index], over_chunk[index], out=states[index + 1])
        flat[index + 1].baddbmm_(kept_keys[index], corrections)
    return states


def _over_slice(over_chunk: Tensor, removed: Tensor, written: Tensor, kept_keys: Tensor) -> tuple[Tensor, Tensor]:
    """What the whole slice does to a state: a matrix `[batch, heads, key_dim, key_dim]`, and what it leaves of none.

    The last of `_scan`, for an identity and an empty state side by side; arguments are left as they are.
    """
    _, batch, heads, _, key_dim = removed.shape
    value_dim = written.shape[-1]
    state = written.new_zeros(batch, heads, key_dim, value_dim + key_dim)
    state[..., value_dim:].diagonal(dim1=-2, dim2=-1).fill_(1.0)
    flat = state.flatten(0, 1)
    removed, kept_keys = removed.flatten(1, 2), kept_keys.flatten(1, 2).transpose(-1, -2)
    for index, corrections in enumerate(written.flatten(1, 2)):
        both = torch.bmm(removed[index], flat).neg_()
        both[..., :value_dim] += corrections
        state.mul_(over_chunk[index])
        flat.baddbmm_(kept_keys[index], both)
    return state[..., value_dim:], state[..., :value_dim]


def _first_gradient(
    grad_state: Tensor, over_chunk: Tensor, removed: Tensor, grad_written: Tensor, kept_keys: Tensor, grad_reads: Tensor
) -> Tensor:
    """The first of `_scan_backward`, the others not kept; arguments are left as they are."""
    grad = grad_state.clone(memory_format=torch.contiguous_format)
    flat = grad.flatten(0, 1)
    removed, kept_keys, grad_written = (part.flatten(1, 2) for part in (removed, kept_keys, grad_written))
    for index in range(grad_reads.shape[0] - 1, -1, -1):
        corrections = torch.baddbmm(grad_written[index], kept_keys[index], flat)
        grad.mul_(over_chunk[index]).add_(grad_reads[index])
        flat.baddbmm_(removed[index].transpose(-1, -2), corrections, alpha=-1.0)
    return grad


def _scan_backward(
    grad_state: Tensor, over_chunk: Tensor, removed: Tensor, grad_written: Tensor, kept_keys: Tensor, grad_reads: Tensor
) -> Tensor:
    """Gradients of all states; `grad_written` is completed in place by what later states say.

    `grad_reads[n]` is the gradient of state n from the outputs of its own chunk.
    """
    grads = grad_reads.new_empty(grad_reads.shape[0] + 1, *grad_state.shape)
    grads[-1] = grad_state
    flat = grads.flatten(1, 2)
    removed, kept_keys, grad_written = (part.flatten(1, 2) for part in (removed, kept_keys, grad_written))
    for index in range(grad_reads.shape[0] - 1, -1, -1):
        grad_written[index].baddbmm_(kept_keys[index], flat[index + 1])
        torch.addcmul(grad_reads[index], grads[index + 1], over_chunk[index], out=grads[index])
        flat[index].baddbmm_(removed[index].transpose(-1, -2), grad_written[index], alpha=-1.0)
    return grads


def _decay_gradient(pairs: Tensor, reads: Tensor, writes: Tensor, carried: Tensor) -> Tensor:
    """Gradient of `g`, `[chunks, batch, heads, chunk]`: at t the sum over all that passes from before t to t or later.

    `pairs[i, j]` from a token j to a later one i (made use of), `reads[i]` from the old state to i, `writes[j]` from
    j to the new state, `carried` from the old to the new state.
    """
    for row in range(pairs.shape[-1] - 2, 0, -1):
        pairs[..., row, :row] += pairs[..., row + 1, :row]
    grad = pairs.tril_(-1).sum(dim=-1)
    grad += reads.flip(-1).cumsum(dim=-1).flip(-1)
    grad[..., 1:] += writes.cumsum(dim=-1)[..., :-1]
    return grad.add_(carried.unsqueeze(-1))


def _chunk_major(tensor: Tensor, chunk: int, factor: Tensor | float = 1.0, padding: float = 0.0) -> Tensor:
    """`[batch, time, heads, dim]`, times a factor, to new `[chunks, batch, heads, chunk, dim]`, contiguous."""
    source = _in_chunks(tensor, chunk, padding)
    factor = _in_chunks(factor, chunk) if isinstance(factor, Tensor) else factor
    result = torch.empty(source.shape, dtype=source.dtype, device=source.device)
    return torch.mul(source, factor, out=result)


def _in_chunks(tensor: Tensor, chunk: int, padding: float = 0.0) -> Tensor:
    """`[chunks, batch, heads, chunk, dim]`, a view where `tensor` has whole chunks."""
    missing = -tensor.shape[1] % chunk
    if missing:
        end = tensor.new_full((tensor.shape[0], missing, *tensor.shape[2:]), padding)
        tensor = torch.cat([tensor, end], dim=1)
    chunks: Tensor = tensor.unflatten(1, (-1, chunk))
    return chunks.permute(1, 0, 3, 2, 4)


def _time_major(tensor: Tensor, time: int) -> Tensor:
    """The way back of `_chunk_major`, cut to `time`."""
    rows: Tensor = tensor.permute(1, 0, 3, 2, 4).flatten(1, 2)
    return rows[:, :time]


def _add_product(target: Tensor, left: Tensor, right: Tensor, factor: float = 1.0) -> None:
    """`target += factor * left @ right`, in place, over all leading dimensions."""
    target.flatten(0, 2).baddbmm_(left.flatten(0, 2), right.flatten(0, 2), alpha=factor)


class _L2Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True)
        inverse = length.square_().add_(L2_NORM_EPS).rsqrt_()
        normalised: Tensor = heads * inverse
        ctx.save_for_backward(normalised, inverse)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        normalised, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, normalised).unsqueeze(-1)
        result: Tensor = torch.addcmul(grad, normalised, along, value=-1.0).mul_(inverse)
        return result
