"""Softmax attention with grouped key/value heads: whole sequences, packed documents, continuation and decoding.

All tensors are `[batch, heads, time, head_dim]`; query heads are a multiple of the key/value heads, head h reading
key/value head `h // (query_heads / key_value_heads)` (Ainslie et al. 2023, arXiv:2305.13245).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.ops import cuda_kernels, few_rows


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each token attends to itself and those before it."""
    if cuda_kernels.takes_flash_attention(query):
        return cuda_kernels.attention(query, key, value)
    key, value = _repeated(query, key, value)
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def document_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """Causal attention inside each document of packed rows.

    `lengths` are the documents' lengths, row after row, none crossing a row. One call a document: the work is
    that of the documents alone, and no mask of `[time, time]` exists.
    """
    batch, _, time, _ = query.shape
    if sum(lengths) != batch * time:
        raise ValueError(f"document lengths sum to {sum(lengths)}, but {batch} rows of {time} tokens were given")
    if cuda_kernels.takes_flash_attention(query):
        return cuda_kernels.document_attention(query, key, value, lengths)
    flat = [part.transpose(1, 2).flatten(0, 1).split(list(lengths)) for part in (query, key, value)]
    outputs = [
        causal_attention(*(part.transpose(0, 1).unsqueeze(0) for part in document)).squeeze(0).transpose(0, 1)
        for document in zip(*flat, strict=True)
    ]
    joined: Tensor = torch.cat(outputs).unflatten(0, (batch, time))
    return joined.transpose(1, 2)


def continued_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of the last tokens of a sequence: `query` holds the newest `time` tokens, `key` all of them.

    The part over the past needs no mask and the part over the new tokens is plainly causal; the two are merged by
    their log-sum-exp (as in flash decoding), so that no mask of `[time, past]` is made.
    """
    if cuda_kernels.takes_flash_attention(query):
        return cuda_kernels.attention(query, key, value)
    time, past = query.shape[2], key.shape[2] - query.shape[2]
    if time == 1:
        return _decode(query, key, value)
    if past == 0:
        return causal_attention(query, key, value)
    old, old_weight = _attend(query, key[:, :, :past], value[:, :, :past], causal=False)
    new, new_weight = _attend(query, key[:, :, past:], value[:, :, past:], causal=True)
    share = torch.sigmoid(old_weight - new_weight).unsqueeze(-1).to(old.dtype)
    return new + share * (old - new)


def ragged_attention(query: Tensor, key: Tensor, value: Tensor, ends: Sequence[int], inside: Tensor) -> Tensor:
    """As `continued_attention` for rows of different lengths: row r has `ends[r]` keys, what lies behind is not read.

    `inside` `[batch, longest]` says the same as a mask. One token a row is one masked product; several tokens go
    row by row, so that no mask of `[time, past]` is made.
    """
    if query.shape[2] == 1:
        return _decode(query, key, value, inside[:, None, None])
    rows = [
        continued_attention(query[row, None], key[row, None, :, :end], value[row, None, :, :end])
        for row, end in enumerate(ends)
    ]
    return torch.cat(rows)


def _decode(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query token: the heads of a group become rows of one product, and keys are read once a group."""
    if mask is None and few_rows.takes_keys(query, key, value):
        return few_rows.attend(query, key, value)
    batch, heads, _, head_dim = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch, groups, heads // groups, head_dim)
    return scaled_dot_product_attention(rows, key, value, attn_mask=mask).reshape(batch, heads, 1, head_dim)


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention output and the log-sum-exp of its scores, `[batch, heads, time]`."""
    key, value = _repeated(query, key, value)
    if query.device.type == "cpu" and query.dtype == torch.float32:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, weight = flash(query, key, value, 0.0, causal)[:2]
        if weight.shape[1] != query.shape[1]:
            weight = weight.transpose(1, 2)
        return output, weight
    scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    weight = scores.logsumexp(dim=-1)
    return (scores - weight.unsqueeze(-1)).exp().to(value.dtype) @ value, weight


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values with one head for each query head."""
    group = query.shape[1] // key.shape[1]
    if group == 1:
        return key, value
    return key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
