"""Models of flash-linear-attention with random weights, saved by its own `save_pretrained`; for the child process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support import triton_interpreter


@torch.no_grad()
def save_random_model(tokens: Tensor, architecture: str, directory: str, fields: dict[str, Any]) -> Tensor:
    """Write a fla model in several files; returns its logits of `tokens` `[batch, time]`."""
    import fla.models

    fla.layers.attn.flash_attn_func = triton_interpreter._flash_attention
    torch.manual_seed(0)
    architecture_class = getattr(fla.models, architecture)
    model = architecture_class(architecture_class.config_class(**fields)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
        elif parameter.dim() == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
    model.save_pretrained(directory, max_shard_size="20KB")
    triton_interpreter._make_loops_interpretable()
    logits: Tensor = model(tokens, use_cache=False).logits
    return logits
