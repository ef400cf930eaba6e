"""The gated delta rule (the recurrence inside Gated DeltaNet) in chunks.

`S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - exp(g_t) k_t S_{t-1})^T`, `o_t = scale * q_t S_t`
(Yang et al. 2024, arXiv:2412.06464, eq. 10): the state forgets, then corrects what it stores under the key.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_SIZE = 64
# flash-linear-attention's: keeps the direction of a vector of zeros finite.
L2_NORM_EPS = 1e-6


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
) -> tuple[Tensor, Tensor]:
    """Outputs of a whole sequence and the state after it; any length.

    `query`, `key` are `[batch, time, heads, key_dim]`, keys of length at most 1, `value` is
    `[batch, time, heads, value_dim]`, `log_decay` (at most 0) and `beta` (0 to 1) are `[batch, time, heads]`
    (fla's layout), `initial_state` and the returned state `[batch, heads, key_dim, value_dim]` in float32.
    `document_starts` `[batch, time]` marks tokens before which the state is emptied.
    Computes in float32 whatever the inputs or autocast say; the output has the query's dtype.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    batch, time, heads, key_dim = query.shape
    with torch.autocast(query.device.type, enabled=False):
        decay = log_decay.float().exp()
        if document_starts is not None:
            decay = decay.masked_fill(document_starts.unsqueeze(-1), 0.0)
        missing = -time % CHUNK_SIZE
        queries, keys, values, betas = (
            functional.pad(part.float(), (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, CHUNK_SIZE)).permute(1, 0, 3, 2, 4)
            for part in (query, key, value, beta.unsqueeze(-1))
        )
        decays = functional.pad(decay, (0, 0, 0, missing), value=1.0).unflatten(1, (-1, CHUNK_SIZE)).permute(1, 0, 3, 2)
        rows = [functional.one_hot(torch.tensor(0), CHUNK_SIZE).to(decays).expand_as(decays)]
        for step in range(1, CHUNK_SIZE):
            unit = functional.one_hot(torch.tensor(step), CHUNK_SIZE).to(decays)
            rows.append(rows[-1] * decays[..., step : step + 1] + unit)
        between = torch.stack(rows, dim=-2)
        since_start = decays.cumprod(dim=-1).unsqueeze(-1)
        lower = (betas * between * (keys @ keys.transpose(-1, -2))).tril(-1)
        right = torch.cat([betas * values, betas * since_start * keys], dim=-1)
        solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        own, removed = solved.split([value.shape[-1], key_dim], dim=-1)
        scores = between * (queries @ keys.transpose(-1, -2))
        state = (
            initial_state.float() if initial_state is not None else own.new_zeros(batch, heads, key_dim, own.shape[-1])
        )
        outputs = []
        for index in range(own.shape[0]):
            written = own[index] - removed[index] @ state
            outputs.append(since_start[index] * (queries[index] @ state) + scores[index] @ written)
            kept = keys[index] * between[index, ..., -1, :].unsqueeze(-1)
            state = state * since_start[index, ..., -1:, :] + kept.transpose(-1, -2) @ written
        output = scale * torch.stack(outputs).permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :time]
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
    state = state * log_decay.float().exp()[..., None, None]
    key = key.float()
    stored = (key.unsqueeze(-2) @ state).squeeze(-2)
    correction = (value.float() - stored) * beta.float().unsqueeze(-1)
    state = state.addcmul_(key.unsqueeze(-1), correction.unsqueeze(-2))
    output = (query.float() * scale).unsqueeze(-2) @ state
    return output.squeeze(-2).to(query.dtype), state


def l2_normalised(heads: Tensor) -> Tensor:
    """`x / sqrt(sum(x^2) + eps)` over the last dimension, in float32 (fla's `l2norm`)."""
    heads = heads.float()
    return heads * (heads.square().sum(dim=-1, keepdim=True) + L2_NORM_EPS).rsqrt()
