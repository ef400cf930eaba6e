from __future__ import annotations

import torch

from model import preset
from model.mixers import Attention
from model.sequence import Sequence

CONFIG = preset("miniature")


@torch.no_grad()
def test_without_positions_a_token_that_sees_only_itself_passes_its_value_on() -> None:
    layer, hidden = Attention(CONFIG, layer=0), torch.randn(1, 6, CONFIG.width)
    every_token_alone = torch.arange(6).unsqueeze(0)
    output = layer(hidden, Sequence(CONFIG, 1, 6, hidden.device, document_ids=every_token_alone), None)
    value = layer.v_proj(hidden).unflatten(-1, (CONFIG.key_value_heads, 1, CONFIG.head_dim))
    group = CONFIG.attention_heads // CONFIG.key_value_heads
    expected = layer.o_proj(value.expand(-1, -1, -1, group, -1).flatten(2))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_restart_with_each_document() -> None:
    layer, document = Attention(CONFIG, layer=0), torch.randn(1, 9, CONFIG.width)
    twice = torch.cat([document, document], dim=1)
    ids = torch.tensor([[0] * 9 + [1] * 9])
    first, second = layer(twice, Sequence(CONFIG, 1, 18, twice.device, document_ids=ids), None).chunk(2, dim=1)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
