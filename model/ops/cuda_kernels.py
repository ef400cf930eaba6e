"""GPU kernels of other projects, behind the signatures of our own operations.

On an NVIDIA GPU the core operations are taken from flash-linear-attention (HGRN-2, Gated DeltaNet), mamba_ssm
(Mamba-2) and flash-attn when these can be imported; otherwise, and always with the environment variable
`SAM2_KERNELS=torch`, the plain PyTorch forms run there too. What is used is logged once. The packages are never
imported on a machine without CUDA, where their presence alone breaks some models of transformers.

No function here has been run on a GPU. Tests run the real kernels of fla and (where its sources are at hand) of
mamba_ssm through them in Triton's interpreter, gradients and documents included; flash-attn, which has no
interpreter, is only tested by what it is called with.

Differences that remain: with inputs in bfloat16 the kernels multiply in bfloat16 where the PyTorch forms use
float32 throughout, and with float32 inputs they may use the GPU's TF32. States are float32 in both.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from model.errors import ConfigurationError

ENVIRONMENT_VARIABLE = "SAM2_KERNELS"
#: Each package and the module of it that must be importable.
PACKAGES = {"fla": "fla.ops", "flash_attn": "flash_attn", "mamba_ssm": "mamba_ssm.ops.triton.ssd_combined"}
# Up to here, without gradients, walking through the tokens is faster than chunks (the bound of fla's own layers).
_FEW_TOKENS = 64
_FLASH_ATTENTION_LARGEST_HEAD = 256
# mamba_ssm's own choice.
_MAMBA_CHUNK = 256

_log = logging.getLogger(__name__)


def takes(tensor: Tensor, package: str) -> bool:
    """Whether an operation on `tensor` goes to a kernel of `package`, a key of `PACKAGES`."""
    return tensor.is_cuda and package in installed()


@functools.cache
def installed() -> frozenset[str]:
    """The packages whose kernels may run here; decided and logged once a process.

    Raises `ConfigurationError` for an unknown value of `SAM2_KERNELS`.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if choice not in ("auto", "torch"):
        raise ConfigurationError(f"{ENVIRONMENT_VARIABLE}={choice!r} is unknown: use auto, or torch for plain PyTorch")
    if choice == "torch" or not torch.cuda.is_available():
        return frozenset()
    return frozenset(package for package, module in PACKAGES.items() if _can_import(package, module))


def gated_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    document_starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`chunk_gated_linear_attention` by fla's `chunk_gla`, or by `fused_recurrent_gla` for few tokens."""
    kernels = import_module("fla.ops.gla")
    tokens = {"q": query.to(value.dtype), "k": key.to(value.dtype), "v": value}
    if _are_few(query):
        kernel, tokens["gk"] = kernels.fused_recurrent_gla, log_decay.float()
    else:
        kernel, tokens["g"] = kernels.chunk_gla, log_decay.float()
    output, state = _recurrence(kernel, tokens, scale, initial_state, document_starts)
    return output.to(query.dtype), state


def gated_delta_rule(
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
    """`chunk_gated_delta_rule` by fla's kernel of that name, or by its `fused_recurrent` form for few tokens."""
    kernels = import_module("fla.ops.gated_delta_rule")
    kernel = kernels.fused_recurrent_gated_delta_rule if _are_few(query) else kernels.chunk_gated_delta_rule
    tokens = {"q": query.to(value.dtype), "k": key.to(value.dtype), "v": value}
    tokens |= {"g": log_decay.float(), "beta": beta.float()}
    output, state = _recurrence(kernel, tokens, scale, initial_state, document_starts)
    return output.to(query.dtype), state


def state_space_duality(
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
    """`chunk_state_space_duality` by mamba_ssm's `mamba_chunk_scan_combined`.

    The kernel keeps the initial state for tokens of document 0, which is what counting starts gives.
    """
    kernel = import_module(PACKAGES["mamba_ssm"]).mamba_chunk_scan_combined
    output, state = kernel(
        inputs,
        step_sizes.float(),
        decay_rates.float(),
        B.to(inputs.dtype),
        C.to(inputs.dtype),
        chunk_size=_MAMBA_CHUNK,
        D=None if skip is None else skip.float(),
        initial_states=None if initial_state is None else initial_state.float(),
        seq_idx=None if document_starts is None else document_starts.cumsum(dim=1, dtype=torch.int32),
        return_final_states=True,
    )
    return output, state.float()


def takes_flash_attention(query: Tensor) -> bool:
    """Whether attention of `query` goes to flash-attn, which has 16-bit kernels only."""
    return (
        takes(query, "flash_attn")
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= _FLASH_ATTENTION_LARGEST_HEAD
    )


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`continued_attention` (and, with as many keys as queries, `causal_attention`) by `flash_attn_func`.

    Its causal mask is aligned to the last key, and grouped heads need no repetition.
    """
    kernel = import_module("flash_attn").flash_attn_func
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    output: Tensor = kernel(query, key, value, causal=True).transpose(1, 2)
    return output


def document_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """`document_attention` by `flash_attn_varlen_func`: all documents of all rows in one call."""
    kernel = import_module("flash_attn").flash_attn_varlen_func
    ends = [0, *itertools.accumulate(lengths)]
    boundaries = torch.tensor(ends, dtype=torch.int32, device=query.device)
    flat = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    longest = max(lengths)
    rows: Tensor = kernel(
        *flat,
        cu_seqlens_q=boundaries,
        cu_seqlens_k=boundaries,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        causal=True,
    )
    output: Tensor = rows.unflatten(0, (query.shape[0], query.shape[2])).transpose(1, 2)
    return output


class _Packing(NamedTuple):
    """Documents of all rows, laid end to end."""

    boundaries: Tensor  # [documents + 1], where each begins, and the end
    first: Tensor  # [batch], the document each row begins with
    last: Tensor  # [batch], the document each row ends with
    continues: Tensor  # [batch], whether a row's first token goes on with the row's initial state


_packings: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _packing(document_starts: Tensor) -> _Packing:
    """Made once for all layers that share `document_starts` `[batch, time]`: counting waits for the GPU."""
    known: _Packing | None = _packings.get(document_starts)
    if known is None:
        starts = document_starts.bool().clone()
        starts[:, 0] = True
        total = starts.sum(dim=1).cumsum(dim=0)
        boundaries = functional.pad(starts.flatten().nonzero().flatten(), (0, 1), value=starts.numel())
        first = functional.pad(total[:-1], (1, 0))
        known = _Packing(boundaries, first, total - 1, ~document_starts[:, 0].bool())
        _packings[document_starts] = known
    return known


def _recurrence(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    tokens: dict[str, Tensor],
    scale: float | None,
    initial_state: Tensor | None,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Call a kernel of fla, whose documents are one row with boundaries and have a state each."""
    options: dict[str, Any] = {"scale": scale, "output_final_state": True}
    state = None if initial_state is None else initial_state.float()
    if document_starts is None:
        return kernel(**tokens, initial_state=state, **options)
    packing = _packing(document_starts)
    if state is not None:
        state = state * packing.continues[:, None, None, None]
        documents = packing.boundaries.shape[0] - 1
        state = state.new_zeros(documents, *state.shape[1:]).index_copy(0, packing.first, state)
    flat = {name: part.flatten(0, 1).unsqueeze(0) for name, part in tokens.items()}
    output, states = kernel(**flat, initial_state=state, cu_seqlens=packing.boundaries, **options)
    return output.squeeze(0).unflatten(0, document_starts.shape), states[packing.last]


def _are_few(query: Tensor) -> bool:
    return query.shape[1] <= _FEW_TOKENS and not torch.is_grad_enabled()


def _can_import(package: str, module: str) -> bool:
    try:
        import_module(module)
    except ImportError as error:
        _log.info("GPU kernels of %s: plain PyTorch instead (%s)", package, error)
        return False
    _log.info("GPU kernels of %s: used", package)
    return True
