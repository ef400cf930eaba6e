from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model import CacheError, HybridLM, preset

DOCUMENT_LENGTHS = ((40, 110), (77, 3, 70))


def packed_ids() -> Tensor:
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in DOCUMENT_LENGTHS]
    return torch.stack(rows)


@torch.no_grad()
def test_prefill_continuation_and_steps_equal_the_full_forward(miniature: HybridLM, tokens: Tensor) -> None:
    cache = miniature.new_cache()
    pieces = [tokens[:, :100], tokens[:, 100:130], *tokens[:, 130:].split(1, dim=1)]
    logits = torch.cat([miniature(piece, cache=cache) for piece in pieces], dim=1)
    assert cache.length == tokens.shape[1]
    torch.testing.assert_close(logits, miniature(tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_documents_equal_documents_one_by_one(miniature: HybridLM, tokens: Tensor) -> None:
    packed = miniature(tokens, document_ids=packed_ids())
    for row, lengths in enumerate(DOCUMENT_LENGTHS):
        for document, logits in zip(tokens[row].split(lengths), packed[row].split(lengths), strict=True):
            alone = miniature(document.unsqueeze(0)).squeeze(0)
            # Relative to the largest logit: the norm after the recurrence amplifies rounding in short documents.
            assert (logits - alone).abs().max() < 1e-5 * packed.abs().max()


def test_gradients_do_not_cross_documents(miniature: HybridLM, tokens: Tensor) -> None:
    embedded: list[Tensor] = []
    miniature.embeddings.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    logits = miniature(tokens, document_ids=packed_ids())
    (gradient,) = torch.autograd.grad(logits[0, 40:].square().sum(), embedded[0])
    assert gradient[0, 40:].abs().sum() > 0
    assert gradient[0, :40].abs().max() < 1e-6 * gradient.abs().max()
    assert gradient[1].abs().max() == 0


@torch.no_grad()
def test_tokens_do_not_see_the_future(miniature: HybridLM, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[:, 90:] = (changed[:, 90:] + 1) % 256
    torch.testing.assert_close(miniature(tokens)[:, :90], miniature(changed)[:, :90], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_last_logits_are_the_last_of_all(miniature: HybridLM, tokens: Tensor) -> None:
    torch.testing.assert_close(miniature(tokens, logits_for="last"), miniature(tokens)[:, -1:])


def test_loss_is_cross_entropy_over_the_unmasked_targets(miniature: HybridLM, tokens: Tensor) -> None:
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, :10] = -100
    mask = torch.rand(targets.shape)
    each = cross_entropy(miniature(inputs).transpose(1, 2), targets, reduction="none")
    weights = mask * (targets >= 0)
    expected = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(miniature.loss(inputs, targets, loss_mask=mask), expected)


def test_loss_without_targets_is_zero_with_zero_gradients(miniature: HybridLM, tokens: Tensor) -> None:
    loss = miniature.loss(tokens, torch.full_like(tokens, -100))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in miniature.parameters())


def test_gradient_checkpointing_changes_nothing(miniature: HybridLM, tokens: Tensor) -> None:
    gradients = []
    for miniature.gradient_checkpointing in (False, True):
        loss = miniature.loss(tokens[:, :-1], tokens[:, 1:], document_ids=packed_ids()[:, :-1])
        gradients.append(torch.autograd.grad(loss, list(miniature.parameters())))
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    "fields", [{}, {"tie_embeddings": False}, {"pattern": ("attention",)}, {"pattern": ("hgrn2",)}]
)
def test_learns_a_fixed_batch(fields: dict[str, object], tokens: Tensor) -> None:
    model = HybridLM(preset("miniature").changed(**fields))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs, targets = tokens[:, :64], tokens[:, 1:65]
    first = float(model.loss(inputs, targets).detach())
    for _ in range(50):
        optimizer.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        optimizer.step()
    assert abs(first - 5.55) < 1.0  # log(256), and the variance of unit logits: it knows nothing yet
    assert float(loss.detach()) < 1.5


def test_a_module_put_in_place_of_a_projection_takes_effect(miniature: HybridLM, tokens: Tensor) -> None:
    plain = miniature(tokens)
    for block in miniature.layers:
        for path in ("attn.q_proj", "attn.o_proj", "mlp.down_proj"):
            linear = block.get_submodule(path)
            block.set_submodule(path, torch.nn.Sequential(linear, torch.nn.Dropout(1.0)))
    assert not torch.allclose(plain, miniature.train()(tokens))


def test_names_are_flash_linear_attentions(miniature: HybridLM) -> None:
    names = set(miniature.state_dict())
    for name in (
        "embeddings.weight", "lower_bounds", "norm.weight", "lm_head.weight",
        "layers.0.attn_norm.weight", "layers.0.mlp_norm.weight", "layers.0.mlp.gate_proj.weight",
        "layers.0.attn.i_proj.weight", "layers.0.attn.f_conv1d.weight", "layers.0.attn.g_norm.weight",
        "layers.3.attn.k_proj.weight",
    ):  # fmt: skip
        assert name in names


def test_a_cache_of_another_batch_or_with_documents_is_refused(miniature: HybridLM, tokens: Tensor) -> None:
    cache = miniature.new_cache()
    with torch.no_grad():
        miniature(tokens, cache=cache)
    with pytest.raises(CacheError, match="holds 2 sequences, the call has 1"):
        miniature(tokens[:1], cache=cache)
    with pytest.raises(CacheError, match="document_ids"):
        miniature(tokens, document_ids=packed_ids(), cache=miniature.new_cache())


def test_autocast_keeps_the_loss_close(miniature: HybridLM, tokens: Tensor) -> None:
    exact = miniature.loss(tokens[:, :-1], tokens[:, 1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = miniature.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.testing.assert_close(loss, exact, atol=0.02, rtol=0.0)
