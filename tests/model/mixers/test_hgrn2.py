from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, linear, logsigmoid, pad, silu

from model import preset
from model.mixers import HGRN2
from model.ops.reference import naive_gated_linear_attention
from model.sequence import Sequence


def flash_linear_attention_layer(layer: HGRN2, hidden: Tensor, lower_bound: Tensor | None) -> Tensor:
    """The layer as flash-linear-attention's `HGRN2Attention` states it, token by token, in float64."""
    weights = {name: weight.detach().double() for name, weight in layer.state_dict().items()}
    hidden = hidden.double()

    def projected(name: str) -> Tensor:
        result = linear(hidden, weights[f"{name}_proj.weight"])
        if f"{name}_conv1d.weight" not in weights:
            return result
        kernel = weights[f"{name}_conv1d.weight"]
        padded = pad(result.transpose(1, 2), (kernel.shape[-1] - 1, 0))
        return conv1d(padded, kernel, groups=kernel.shape[0]).transpose(1, 2)

    query, log_decay, value = silu(projected("q")), logsigmoid(projected("f")), projected("i")
    if lower_bound is not None:
        bound = lower_bound.double()
        log_decay = torch.logaddexp(bound.log(), torch.log1p(-bound) + log_decay)
    heads = [part.unflatten(-1, (-1, layer.head_dim)) for part in (query, 1 - log_decay.exp(), value, log_decay)]
    mixed = naive_gated_linear_attention(*heads)[0].flatten(2)
    normed = mixed * (mixed.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weights["g_norm.weight"]
    return linear(normed, weights["o_proj.weight"])


@torch.no_grad()
@pytest.mark.parametrize("short_convolution", [True, False])
@pytest.mark.parametrize("bounded", [True, False])
def test_equals_flash_linear_attentions_definition(bounded: bool, short_convolution: bool) -> None:
    config = preset("miniature").changed(short_convolution=short_convolution)
    layer = HGRN2(config, layer=1)
    layer.g_norm.weight.uniform_(0.5, 1.5)
    hidden = 2 * torch.randn(2, 75, config.width)
    lower_bound = torch.rand(config.width) if bounded else None
    output = layer(hidden, Sequence(config, 2, 75, hidden.device), lower_bound)
    expected = flash_linear_attention_layer(layer, hidden, lower_bound)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-4)
