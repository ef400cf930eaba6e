"""Plain definitions of the mixers' recurrences: what the fast forms must equal. Oracles, not for training."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_gated_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence itself, one token at a time (Yang et al. 2023, arXiv:2312.06635, eq. 3).

    `S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T` and `o_t = scale * q_t S_t`; the state is emptied before
    a token that starts a document. Shapes as in `chunk_gated_linear_attention`; computes in the inputs' dtype,
    so that float64 inputs give a float64 oracle.
    """
    batch, time, heads, key_dim = query.shape
    scale = key_dim**-0.5 if scale is None else scale
    state = initial_state
    if state is None:
        state = query.new_zeros(batch, heads, key_dim, value.shape[-1])
    outputs = []
    for step in range(time):
        if document_starts is not None:
            state = state.masked_fill(document_starts[:, step, None, None, None], 0.0)
        update = key[:, step].unsqueeze(-1) * value[:, step].unsqueeze(-2)
        state = state * log_decay[:, step].exp().unsqueeze(-1) + update
        outputs.append(scale * (query[:, step].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(outputs, dim=1), state


def pairwise_gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, *, scale: float | None = None
) -> Tensor:
    """The same output from an empty state as an explicit sum over token pairs, exact at any decay.

    `o_i = scale * sum_{j<=i} (sum_k q_ik k_jk exp(G_ik - G_jk)) v_j` with `G` the running sum of `log_decay`.
    Memory is `[batch, heads, time, time, key_dim]`.
    """
    time, key_dim = query.shape[1], query.shape[3]
    scale = key_dim**-0.5 if scale is None else scale
    query, key, value, log_decay = (part.transpose(1, 2) for part in (query, key, value, log_decay))
    total = log_decay.cumsum(dim=-2)
    future = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1).unsqueeze(-1)
    decay = (total.unsqueeze(-2) - total.unsqueeze(-3)).masked_fill(future, float("-inf")).exp()
    scores = torch.einsum("bhik,bhjk,bhijk->bhij", query, key, decay)
    return scale * (scores @ value).transpose(1, 2)


def naive_state_space_duality(
    inputs: Tensor,
    step_sizes: Tensor,
    decay_rates: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    skip: Tensor | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba-2's selective scan, one token at a time (Dao & Gu 2024, arXiv:2405.21060, eq. 2 with scalar decays).

    `S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T` and `y_t = S_t C_t + D x_t`; the state is emptied before a token
    that starts a document. Shapes as in `chunk_state_space_duality`; computes in the inputs' dtype.
    """
    batch, time, heads, head_dim = inputs.shape
    B, C = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (B, C))
    state = initial_state
    if state is None:
        state = inputs.new_zeros(batch, heads, head_dim, B.shape[-1])
    outputs = []
    for step in range(time):
        if document_starts is not None:
            state = state.masked_fill(document_starts[:, step, None, None, None], 0.0)
        decay = (step_sizes[:, step] * decay_rates).exp()[..., None, None]
        update = (step_sizes[:, step].unsqueeze(-1) * inputs[:, step]).unsqueeze(-1) * B[:, step].unsqueeze(-2)
        state = decay * state + update
        outputs.append((state @ C[:, step].unsqueeze(-1)).squeeze(-1))
    output = torch.stack(outputs, dim=1)
    return (output if skip is None else output + skip.unsqueeze(-1) * inputs), state


def naive_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule itself, one token at a time (Yang et al. 2024, arXiv:2412.06464, eq. 10).

    `S' = exp(log_decay_t) S_{t-1}`, `S_t = S' + beta_t k_t (v_t - k_t S')^T`, `o_t = scale * q_t S_t`; the state is
    emptied before a token that starts a document. Shapes as in `chunk_gated_delta_rule`; computes in the inputs'
    dtype.
    """
    batch, time, heads, key_dim = query.shape
    scale = key_dim**-0.5 if scale is None else scale
    state = initial_state
    if state is None:
        state = query.new_zeros(batch, heads, key_dim, value.shape[-1])
    outputs = []
    for step in range(time):
        if document_starts is not None:
            state = state.masked_fill(document_starts[:, step, None, None, None], 0.0)
        state = state * log_decay[:, step].exp()[..., None, None]
        stored = (key[:, step].unsqueeze(-2) @ state).squeeze(-2)
        correction = beta[:, step].unsqueeze(-1) * (value[:, step] - stored)
        state = state + key[:, step].unsqueeze(-1) * correction.unsqueeze(-2)
        outputs.append(scale * (query[:, step].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(outputs, dim=1), state
