"""State space duality (the recurrence inside Mamba-2) in chunks, with a hand-written backward.

`S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T`, `y_t = S_t C_t + D x_t` (Dao & Gu 2024, arXiv:2405.21060), the decay a
scalar a head, `B` and `C` shared by the heads of a group.

Within a chunk let `G` be the running sum of `dt A`, `u = dt x`, `W = tril(C B^T)` (once a group) and
`L_ij = exp(G_i - G_j)` (once a head). Then, with `S` the state before the chunk and `S'` after it,

    y  = (W * L) u + exp(G) C S^T        (+ D x)
    S' = exp(G_last) S + (exp(G_last - G) u)^T B

No exponent is ever positive, so results are exact at any decay, and nothing depends on the data. `G` is summed and
subtracted in float64: behind a strong decay, float32 would leave no digits of a weak one.

One chunk is worked on at a time, in as many rows of the batch as fit the processor's cache: everything but the
products then costs next to nothing. The backward makes `W`, `L` and `u` anew instead of keeping them. The gradient
of `dt A` at a token is summed over what decays there and nothing else: pairs of tokens on either side of it, the
old state in later outputs, earlier updates in the new state, and the old state in the new. The shorter
`dG = y . dy - u . du` leaves few digits where decays are strong, because what does not decay must cancel.

Where processes share rows, what a slice does to a state, and the gradient of the state before it, come from one more
product over the slice each; the chunks are worked on once, from the state that the slices before it give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.ops import cuda_kernels
from model.ops.untraced import untraced
from model.sequence_parallel import SequenceParallel
from model.sequence_parallel.states import StateExchange, gradient_after, state_before_slice

CHUNK_SIZE = 64
# Elements of a chunk and of its states that are worked on together: 1 MiB, a core's share of the cache.
TILE_ELEMENTS = 2**18


@untraced
def chunk_state_space_duality(
    inputs: Tensor,
    step_sizes: Tensor,
    decay_rates: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
    sequence_parallel: SequenceParallel | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs of a whole sequence and the state after it; any length.

    `inputs` (x) is `[batch, time, heads, head_dim]`, `step_sizes` (dt, at least 0) `[batch, time, heads]`,
    `decay_rates` (A, at most 0) and `skip` (D) `[heads]`, `B` and `C` `[batch, time, groups, state]`, each group
    serving `heads / groups` neighbouring heads; `initial_state` and the returned state are
    `[batch, heads, head_dim, state]` in float32 (mamba_ssm's layouts). `document_starts` `[batch, time]` marks
    tokens before which the state is emptied. With `sequence_parallel` the tokens are this process's slice, and the
    state before it is the other processes' to give, not an argument. Computes in float32 whatever the inputs or
    autocast say; the output has the inputs' dtype. On a GPU mamba_ssm's kernel takes its place where installed (see
    `model.ops.cuda_kernels`).
    """
    if cuda_kernels.takes(inputs, "mamba_ssm"):
        if sequence_parallel is not None:
            initial_state = state_space_state(inputs, step_sizes, decay_rates, B, document_starts, sequence_parallel)
        return cuda_kernels.state_space_duality(
            inputs,
            step_sizes,
            decay_rates,
            B,
            C,
            skip=skip,
            initial_state=initial_state,
            document_starts=document_starts,
        )
    with torch.autocast(inputs.device.type, enabled=False):
        x, dt, A, keys, queries = (part.float() for part in (inputs, step_sizes, decay_rates, B, C))
        D = None if skip is None else skip.float()
        if initial_state is None:
            initial_state = x.new_zeros(x.shape[0], *x.shape[2:], keys.shape[-1])
        state = initial_state.float()
        if torch.is_grad_enabled():
            output, state = _ChunkedForm.apply(x, dt, A, keys, queries, D, state, document_starts, sequence_parallel)
        else:
            terms = _terms(x, dt, A, keys, queries, document_starts)
            if sequence_parallel is not None:
                state, _ = StateExchange(*terms.over_slice(), sequence_parallel).finish()
            output, states, _ = _forward(terms, D, state, for_backward=False)
            state = states[-1]
    return output.to(inputs.dtype), state


def step_state_space_duality(
    inputs: Tensor,
    step_sizes: Tensor,
    decay_rates: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of the recurrence, for decoding.

    `inputs` is `[batch, heads, head_dim]`, `step_sizes` `[batch, heads]`, `decay_rates` and `skip` `[heads]`, `B`
    and `C` `[batch, groups, state]`, `state` `[batch, heads, head_dim, state]`, which is not modified. Returns the
    output, in the inputs' dtype, and the new state.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        x, dt, groups = inputs.float(), step_sizes.float(), B.shape[1]
        grouped = (state * (dt * decay_rates.float()).exp()[..., None, None]).unflatten(1, (groups, -1)).flatten(2, 3)
        update = (x * dt.unsqueeze(-1)).unflatten(1, (groups, -1)).flatten(2, 3)
        grouped = grouped.addcmul_(update.unsqueeze(-1), B.float().unsqueeze(-2))
        output = (grouped @ C.float().unsqueeze(-1)).view_as(x)
        if skip is not None:
            output = torch.addcmul(output, x, skip.float().unsqueeze(-1))
    return output.to(inputs.dtype), grouped.view_as(state)


class _Chunk(NamedTuple):
    """What one chunk's products are made of; `shared` counts the heads of a group."""

    tokens: tuple[slice, slice]  # rows of the batch, times
    inputs: Tensor  # x: [rows, chunk, groups, shared, head_dim]
    step_sizes: Tensor  # dt: [rows, chunk, groups, shared, 1]
    keys: Tensor  # B: [rows, groups, chunk, state]
    queries: Tensor  # C: [rows, groups, chunk, state]
    decays: Tensor  # L: [rows, groups, shared, chunk, chunk]; 1 where the key is later than the query; used up
    from_start: Tensor  # exp(G): [rows, chunk, groups, shared, 1]; 0 in documents that start in the chunk
    to_last: Tensor  # exp(G_last - G): likewise; 0 in documents that end in the chunk
    over_chunk: Tensor  # exp(G_last): [rows, groups, shared, 1, 1]; 0 when a document starts in the chunk
    visible: Tensor | None  # [rows, 1, chunk, chunk]: key not later, in the same document; None: not later

    def scores(self) -> Tensor:
        """`W`: `[rows, groups, chunk, chunk]`."""
        return self.hide(self.queries @ self.keys.transpose(-1, -2))

    def hide(self, scores: Tensor) -> Tensor:
        """Zero, in place, the scores of keys that the query must not see."""
        return scores.tril_() if self.visible is None else scores.mul_(self.visible)

    def updates(self) -> Tensor:
        """`u`: `[rows, groups, chunk, shared, head_dim]`."""
        return _grouped_product(self.inputs, self.step_sizes)

    def advance(self, state: Tensor, updates: Tensor, into: Tensor) -> None:
        """Write the state after the chunk, `[rows, groups, shared, head_dim, state]`; `into` may be `state`.

        Overwrites `updates`.
        """
        torch.mul(state, self.over_chunk, out=into)
        kept_updates = _rows_of_values(updates.mul_(self.to_last.transpose(1, 2))).transpose(-1, -2)
        _rows_of_state(into).baddbmm_(kept_updates, self.keys.flatten(0, 1))


@dataclass(frozen=True)
class _Terms:
    """The arguments of the whole call, heads split by group, and the small factors of all chunks."""

    inputs: Tensor  # [batch, time, groups, shared, head_dim]
    step_sizes: Tensor  # [batch, time, groups, shared, 1]
    keys: Tensor  # [batch, groups, time, state]
    queries: Tensor
    total: Tensor  # G in float64: [batch, chunks, groups, shared, chunk]
    from_start: Tensor  # [batch, time or more, groups, shared, 1]
    to_last: Tensor
    over_chunk: Tensor  # [batch, chunks, groups, shared, 1, 1]
    documents: Tensor | None  # [batch, chunks, chunk]: document of a token, counted within the chunk

    @property
    def chunks(self) -> int:
        """Chunks, the last of which may be shorter."""
        return self.total.shape[1]

    def row_tiles(self) -> Iterator[slice]:
        """Parts of the batch that are worked on together."""
        batch, _, groups, shared, head_dim = self.inputs.shape
        elements = groups * shared * head_dim * (CHUNK_SIZE + self.keys.shape[-1])
        rows = max(1, TILE_ELEMENTS // elements)
        return (slice(begin, begin + rows) for begin in range(0, batch, rows))

    def chunk(self, rows: slice, index: int) -> _Chunk:
        """One chunk of some rows."""
        begin = index * CHUNK_SIZE
        length = min(CHUNK_SIZE, self.inputs.shape[1] - begin)
        window = slice(begin, begin + length)
        total = self.total[rows, index, ..., :length]
        decays = (total.unsqueeze(-1) - total.unsqueeze(-2)).clamp_max_(0.0).float().exp_()
        return _Chunk(
            tokens=(rows, window),
            inputs=self.inputs[rows, window],
            step_sizes=self.step_sizes[rows, window],
            keys=self.keys[rows, :, window],
            queries=self.queries[rows, :, window],
            decays=decays,
            from_start=self.from_start[rows, window],
            to_last=self.to_last[rows, window],
            over_chunk=self.over_chunk[rows, index],
            visible=None if self.documents is None else _visible(self.documents[rows, index, :length]),
        )

    def over_slice(self) -> tuple[Tensor, Tensor]:
        """What all tokens do to a state: a decay `[batch, heads, 1, 1]`, and what they leave of an empty one."""
        to_end = self._by_token(_products_before(self.over_chunk.flip(1)).flip(1)).mul_(self.to_last)
        updates = self.inputs * to_end.mul_(self.step_sizes)
        return self.over_chunk.prod(dim=1).flatten(1, 2), self._summed(updates, self.keys)

    def gradient_before(self, grad_output: Tensor, grad_state: Tensor) -> Tensor:
        """The gradient of the state before all tokens from their outputs and from the state after them.

        `grad_output` is `[batch, time, heads, head_dim]`, states are `[batch, heads, head_dim, state]`.
        """
        from_begin = self._by_token(_products_before(self.over_chunk)).mul_(self.from_start)
        reached = grad_output.unflatten(2, self.inputs.shape[2:4]) * from_begin
        return self._summed(reached, self.queries) + grad_state * self.over_chunk.prod(dim=1).flatten(1, 2)

    def _by_token(self, by_chunk: Tensor) -> Tensor:
        """`[batch, chunks, groups, shared, 1, 1]` to `[batch, time, groups, shared, 1]`, new."""
        return by_chunk.squeeze(-1).repeat_interleave(CHUNK_SIZE, dim=1)[:, : self.inputs.shape[1]]

    @staticmethod
    def _summed(values: Tensor, keys: Tensor) -> Tensor:
        """Sum over time of the products of `values` `[batch, time, groups, shared, head_dim]` and `keys`."""
        rows = values.flatten(3).permute(0, 2, 3, 1)
        summed: Tensor = (rows @ keys).unflatten(2, values.shape[3:])
        return summed.flatten(1, 2)


def _products_before(factors: Tensor) -> Tensor:
    """Along dimension 1, the product of all before each."""
    return torch.cat([torch.ones_like(factors[:, :1]), factors[:, :-1]], dim=1).cumprod(dim=1)


def _terms(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, document_starts: Tensor | None) -> _Terms:
    time, groups = x.shape[1], B.shape[2]
    split = _padded(dt.double() * A.double()).unflatten(1, (-1, CHUNK_SIZE)).unflatten(-1, (groups, -1))
    total = split.permute(0, 1, 3, 4, 2).contiguous().cumsum(dim=-1)  # [batch, chunks, groups, shared, chunk]
    last = total[..., -1:]
    from_start, to_last, over_chunk = total.exp(), (last - total).exp(), last.unsqueeze(-1).exp()
    documents = None
    if document_starts is not None:
        documents = _padded(document_starts.long()).unflatten(1, (-1, CHUNK_SIZE)).cumsum(dim=-1)
        present = documents[:, :, None, None]
        from_start = from_start * (present == 0)
        to_last = to_last * (present == present[..., -1:])
        over_chunk = over_chunk * (present[..., -1:] == 0).unsqueeze(-1)
    from_start, to_last = (
        factor.permute(0, 1, 4, 2, 3).float().flatten(1, 2).unsqueeze(-1) for factor in (from_start, to_last)
    )
    return _Terms(
        inputs=x.unflatten(2, (groups, -1)),
        step_sizes=dt.unflatten(2, (groups, -1)).unsqueeze(-1),
        keys=B.transpose(1, 2),
        queries=C.transpose(1, 2),
        total=total,
        from_start=from_start[:, :time],
        to_last=to_last[:, :time],
        over_chunk=over_chunk.float(),
        documents=documents,
    )


def _forward(
    terms: _Terms, skip: Tensor | None, initial_state: Tensor, for_backward: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs; states `[chunks + 1, batch, heads, head_dim, state]` before each chunk and at the end; `C S^T`.

    Unless `for_backward`, only the last state is kept, and no `C S^T` `[batch, time, groups, shared, head_dim]`.
    """
    x = terms.inputs
    groups, shared = x.shape[2:4]
    states = x.new_empty(terms.chunks + 1 if for_backward else 1, *initial_state.shape)
    states[0] = initial_state
    grouped = states.unflatten(2, (groups, shared))
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    from_states = torch.empty_like(output) if for_backward else None
    for rows in terms.row_tiles():
        for index in range(terms.chunks):
            chunk = terms.chunk(rows, index)
            before, after = (index, index + 1) if for_backward else (0, 0)
            state = grouped[before, rows]
            updates = chunk.updates()
            within = chunk.decays.mul_(chunk.scores().unsqueeze(2)) @ updates.transpose(2, 3)
            from_state = _heads_by_time(chunk.queries @ state.flatten(2, 3).transpose(-1, -2), shared)
            if from_states is not None:
                from_states[chunk.tokens] = from_state
            result = torch.addcmul(_by_time(within), from_state, chunk.from_start, out=output[chunk.tokens])
            if skip is not None:
                result.addcmul_(chunk.inputs, skip.view(groups, shared, 1))
            chunk.advance(state, updates, grouped[after, rows])
    return output.flatten(2, 3), states, from_states


class _ChunkedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        skip: Tensor | None,
        initial_state: Tensor,
        document_starts: Tensor | None,
        sequence_parallel: SequenceParallel | None,
    ) -> tuple[Tensor, Tensor]:
        terms = _terms(x, dt, A, B, C, document_starts)
        transitions = None
        if sequence_parallel is not None:
            initial_state, transitions = StateExchange(*terms.over_slice(), sequence_parallel).finish()
        output, states, from_states = _forward(terms, skip, initial_state, for_backward=True)
        ctx.save_for_backward(x, dt, A, B, C, skip, document_starts, states, from_states, transitions)
        ctx.sequence_parallel = sequence_parallel
        return output, states[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, skip, document_starts, states, from_states, transitions = ctx.saved_tensors
        terms = _terms(x, dt, A, B, C, document_starts)
        grad_output, grad_state = grad_output.float(), grad_state.float()
        if ctx.sequence_parallel is not None:
            grad_before = terms.gradient_before(grad_output, grad_state)
            grad_state = grad_state + gradient_after(grad_before, transitions, ctx.sequence_parallel)
        grads = _backward(terms, skip, states, from_states, grad_output, grad_state)
        return (
            grads.inputs.view_as(x),
            grads.step_sizes.addcmul_(grads.log_decays, A),
            (grads.log_decays * dt).sum(dim=(0, 1)),
            grads.keys,
            grads.queries,
            None if grads.skip is None else grads.skip.sum(dim=(0, 1)),
            grads.state,
            None,
            None,
        )


def state_space_state(
    inputs: Tensor,
    step_sizes: Tensor,
    decay_rates: Tensor,
    B: Tensor,
    document_starts: Tensor | None,
    sequence_parallel: SequenceParallel,
) -> Tensor:
    """The state before this process's slice, with gradients: one product a head, for kernels that start from it.

    Every exponent is a sum of decays, none positive, so that this is exact at any decay.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        x, dt, A, keys = (part.float() for part in (inputs, step_sizes, decay_rates, B))
        from_token = (dt.double() * A.double()).flip(1).cumsum(dim=1).flip(1)
        kept = functional.pad(from_token[:, 1:], (0, 0, 0, 1)).exp().float()
        over_slice = from_token[:, 0].exp().float()
        if document_starts is not None:
            document = document_starts.long().cumsum(dim=1).unsqueeze(-1)
            kept = kept * (document == document[:, -1:])
            over_slice = over_slice * (document[:, -1] == 0)
        updates = (x * (dt * kept).unsqueeze(-1)).unflatten(2, (keys.shape[2], -1))
        local_state = torch.einsum("btghp,btgn->bghpn", updates, keys).flatten(1, 2)
        return state_before_slice(over_slice[..., None, None], local_state, sequence_parallel)


class _Gradients(NamedTuple):
    inputs: Tensor  # [batch, time, groups, shared, head_dim]
    step_sizes: Tensor  # [batch, time, heads], through u alone
    log_decays: Tensor  # of dt A: [batch, time, heads]
    keys: Tensor  # [batch, time, groups, state]
    queries: Tensor
    skip: Tensor | None  # [batch, time, heads], each token's
    state: Tensor  # [batch, heads, head_dim, state]


def _backward(
    terms: _Terms, skip: Tensor | None, states: Tensor, from_states: Tensor, grad_output: Tensor, grad_state: Tensor
) -> _Gradients:
    batch, time, groups, shared = terms.inputs.shape[:4]
    by_token = (batch, time, groups * shared)
    new = terms.inputs.new_empty
    grads = _Gradients(
        inputs=torch.empty_like(from_states),
        step_sizes=new(by_token),
        log_decays=new(by_token),
        keys=new(batch, time, groups, terms.keys.shape[-1]),
        queries=new(batch, time, groups, terms.keys.shape[-1]),
        skip=None if skip is None else new(by_token),
        state=grad_state.clone(memory_format=torch.contiguous_format),
    )
    grad_output = grad_output.unflatten(2, (groups, shared))
    states = states.unflatten(2, (groups, shared))
    for rows in terms.row_tiles():
        grad_after = grads.state.unflatten(1, (groups, shared))[rows]
        for index in range(terms.chunks - 1, -1, -1):
            chunk = terms.chunk(rows, index)
            grad, from_state = grad_output[chunk.tokens], from_states[chunk.tokens]
            _chunk_backward(chunk, skip, states[index, rows], from_state, grad, grad_after, grads)
    return grads


def _chunk_backward(
    chunk: _Chunk,
    skip: Tensor | None,
    state: Tensor,
    from_state: Tensor,
    grad: Tensor,
    grad_state: Tensor,
    grads: _Gradients,
) -> None:
    """Fill in one chunk's gradients; `grad_state`, the gradient of the state after it, becomes that of `state`."""
    rows, length, groups, shared, _ = chunk.inputs.shape
    flat = (rows, length, groups * shared)
    updates, scores, grad_by_head = chunk.updates(), chunk.scores().unsqueeze(2), _by_head(grad)
    factors = chunk.step_sizes.squeeze(-1), chunk.to_last.squeeze(-1), chunk.from_start.squeeze(-1)
    step_sizes, to_last, from_start = factors

    grad_decayed = (grad_by_head @ updates.transpose(2, 3).transpose(-1, -2)).mul_(chunk.decays)
    grad_scores = chunk.hide(grad_decayed.sum(dim=2))
    across = _across(grad_decayed.mul_(scores))
    within = _by_time(chunk.decays.mul_(scores).transpose(-1, -2) @ grad_by_head)
    through_state = _heads_by_time(chunk.keys @ grad_state.flatten(2, 3).transpose(-1, -2), shared)

    # One buffer for all products of this size: a new one each would push the state out of the cache.
    product = torch.empty_like(updates)
    by_time = product.transpose(1, 2)
    along_within = torch.mul(chunk.inputs, within, out=by_time).sum(dim=-1)
    along_state = torch.mul(chunk.inputs, through_state, out=by_time).sum(dim=-1).mul_(to_last)
    grads.step_sizes[chunk.tokens] = (along_state + along_within).view(flat)
    grad_inputs = torch.addcmul(within, through_state, chunk.to_last, out=grads.inputs[chunk.tokens])
    grad_inputs.mul_(chunk.step_sizes)
    if skip is not None and grads.skip is not None:
        grad_inputs.addcmul_(grad, skip.view(groups, shared, 1))
        grads.skip[chunk.tokens] = torch.mul(grad, chunk.inputs, out=by_time).sum(dim=-1).view(flat)

    from_queries = torch.mul(grad, from_state, out=by_time).sum(dim=-1).mul_(from_start)
    kept = torch.linalg.vecdot(state.flatten(-2), grad_state.flatten(-2)) * chunk.over_chunk[..., 0, 0]
    grad_log_decays = across.permute(0, 3, 1, 2) + from_queries.flip(1).cumsum(dim=1).flip(1) + kept.unsqueeze(1)
    grad_log_decays[:, 1:] += (along_state * step_sizes)[:, :-1].cumsum(dim=1)
    grads.log_decays[chunk.tokens] = grad_log_decays.view(flat)

    kept_updates = _rows_of_values(updates.mul_(chunk.to_last.transpose(1, 2)))
    grad_keys = torch.bmm(kept_updates, _rows_of_state(grad_state)).view_as(chunk.keys)
    grads.keys[chunk.tokens] = grad_keys.add_(grad_scores.transpose(-1, -2) @ chunk.queries).transpose(1, 2)
    torch.mul(grad, chunk.from_start, out=by_time)
    reached_grad = _rows_of_values(product)
    grad_queries = torch.bmm(reached_grad, _rows_of_state(state)).view_as(chunk.queries)
    grads.queries[chunk.tokens] = grad_queries.add_(grad_scores @ chunk.keys).transpose(1, 2)

    grad_state.mul_(chunk.over_chunk)
    _rows_of_state(grad_state).baddbmm_(reached_grad.transpose(-1, -2), chunk.queries.flatten(0, 1))


def _across(pairs: Tensor) -> Tensor:
    """For each token, the sum of `pairs` `[..., query, key]` whose decay it is part of: `key < token <= query`."""
    length = pairs.shape[-1]
    not_before = torch.ones(length, length, dtype=pairs.dtype, device=pairs.device).triu_()
    summed: Tensor = (not_before @ pairs).tril_(-1).sum(dim=-1)
    return summed


def _heads_by_time(tensor: Tensor, shared: int) -> Tensor:
    """`[rows, groups, chunk, shared * head_dim]` as `[rows, chunk, groups, shared, head_dim]`."""
    split: Tensor = tensor.unflatten(-1, (shared, -1))
    return split.transpose(1, 2)


def _by_head(tensor: Tensor) -> Tensor:
    """`[rows, chunk, groups, shared, head_dim]` as `[rows, groups, shared, chunk, head_dim]`."""
    return tensor.permute(0, 2, 3, 1, 4)


def _by_time(tensor: Tensor) -> Tensor:
    """The way back of `_by_head`."""
    return tensor.permute(0, 3, 1, 2, 4)


def _grouped_product(tensor: Tensor, factor: Tensor) -> Tensor:
    """`tensor * factor`, `[rows, chunk, groups, shared, head_dim]`, as `[rows, groups, chunk, shared, head_dim]`."""
    rows, length, groups, shared, head_dim = tensor.shape
    result = tensor.new_empty(rows, groups, length, shared, head_dim)
    torch.mul(tensor, factor, out=result.transpose(1, 2))
    return result


def _rows_of_values(tensor: Tensor) -> Tensor:
    """`[rows, groups, chunk, shared, head_dim]` as `[rows * groups, chunk, shared * head_dim]`, in place."""
    rows, groups, length = tensor.shape[:3]
    return tensor.view(rows * groups, length, -1)


def _rows_of_state(state: Tensor) -> Tensor:
    """`[rows, groups, shared, head_dim, state]` as `[rows * groups, shared * head_dim, state]`, in place."""
    return state.view(-1, state.shape[2] * state.shape[3], state.shape[4])


def _visible(document: Tensor) -> Tensor:
    return (document.unsqueeze(-1) == document.unsqueeze(-2)).tril_().unsqueeze(1)


def _padded(tensor: Tensor) -> Tensor:
    """`tensor` with zeros appended along time up to a multiple of the chunk."""
    missing = -tensor.shape[1] % CHUNK_SIZE
    if missing == 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], missing, *tensor.shape[2:])], dim=1)
