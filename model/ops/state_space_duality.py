"""State space duality (the recurrence inside Mamba-2) in chunks.

`S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T`, `y_t = S_t C_t + D x_t` (Dao & Gu 2024, arXiv:2405.21060).
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_SIZE = 64


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
) -> tuple[Tensor, Tensor]:
    """Outputs of a whole sequence and the state after it; any length.

    `inputs` (x) is `[batch, time, heads, head_dim]`, `step_sizes` (dt, at least 0) `[batch, time, heads]`,
    `decay_rates` (A, at most 0) and `skip` (D) `[heads]`, `B` and `C` `[batch, time, groups, state]`, group g
    serving heads `g * heads / groups` and following; `initial_state` and the returned state are
    `[batch, heads, head_dim, state]` in float32 (mamba_ssm's layouts). `document_starts` `[batch, time]` marks
    tokens before which the state is emptied. Computes in float32 whatever the inputs or autocast say; the output
    has the inputs' dtype.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        output, state = _masked_form(
            inputs.float(),
            step_sizes.float(),
            decay_rates.float(),
            B.float(),
            C.float(),
            initial_state,
            document_starts,
        )
        if skip is not None:
            output = output + inputs.float() * skip.float().unsqueeze(-1)
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


def _masked_form(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, time, heads, head_dim = x.shape
    groups, size = B.shape[2:]
    state = x.new_zeros(batch, heads, head_dim, size) if state is None else state.float()
    outputs = []
    for begin in range(0, time, CHUNK_SIZE):
        window = slice(begin, begin + CHUNK_SIZE)
        starts = torch.zeros_like(x[:, window, 0, 0]) if document_starts is None else document_starts[:, window]
        document = starts.cumsum(dim=-1)
        causal = torch.ones(document.shape[1], document.shape[1], dtype=torch.bool, device=x.device).tril()
        visible = (document.unsqueeze(-1) == document.unsqueeze(-2)) & causal
        total = (dt[:, window].double() * A).cumsum(dim=1).transpose(1, 2)
        decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~visible.unsqueeze(1), float("-inf"))
        keys, queries = B[:, window].transpose(1, 2), C[:, window].transpose(1, 2)
        scores = (queries @ keys.transpose(-1, -2)).repeat_interleave(heads // groups, dim=1) * decay.exp().float()
        update = (x[:, window] * dt[:, window].unsqueeze(-1)).transpose(1, 2)
        keys, queries = (part.repeat_interleave(heads // groups, dim=1) for part in (keys, queries))
        reached = total.exp().float() * (document == 0).unsqueeze(1)
        kept = (total[..., -1:] - total).exp().float() * (document == document[:, -1:]).unsqueeze(1)
        outputs.append((scores @ update + (queries @ state.transpose(-1, -2)) * reached.unsqueeze(-1)).transpose(1, 2))
        state = state * reached[..., -1, None, None] + (update * kept.unsqueeze(-1)).transpose(-1, -2) @ keys
    return torch.cat(outputs, dim=1), state
