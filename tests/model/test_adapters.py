"""Every linear layer is called, never read: adapters, quantized and other layers in its place take effect everywhere.

Fast paths of mixers and layers must hand over to the modules for these tests to pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from model import HybridLM, ModelConfig, prefill
from model.quantization import load_int4, load_int8, save_int4, save_int8
from tests.support.trained_models import FAMILIES, small_config

#: A model of two layers has every kind of linear layer of its family.
LAYERS = {
    "hgrn2": ("attention", "hgrn2"),
    "gated_deltanet": ("gated_deltanet", "attention"),
    "mamba2": ("mamba2", "attention"),
}
TOKENS = 40


def config_of(family: str) -> ModelConfig:
    return small_config(family, layer_kinds=LAYERS[family], layer_count=2, tie_embeddings=False)


def linear_names(family: str) -> list[str]:
    with torch.device("meta"):
        model = HybridLM(config_of(family))
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


EVERY_LINEAR = [(family, name) for family in FAMILIES for name in linear_names(family)]


def model_of(family: str) -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(config_of(family)).eval()


def tokens() -> Tensor:
    return torch.randint(0, 256, (2, TOKENS), generator=torch.Generator().manual_seed(1))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


@torch.no_grad()
def whole(model: HybridLM) -> Tensor:
    return model(tokens())


@torch.no_grad()
def prefilled(model: HybridLM) -> Tensor:
    return prefill(model, tokens(), model.new_cache())


@torch.no_grad()
def decoded(model: HybridLM, original: HybridLM) -> Tensor:
    """A step of `model` after the prompt was read by `original`, so that only the step can differ."""
    cache = original.new_cache()
    prefill(original, tokens()[:, :-1], cache)
    return model(tokens()[:, -1:], cache=cache, logits_for="last")[:, -1]


@torch.no_grad()
def packed(model: HybridLM) -> Tensor:
    documents = (torch.arange(TOKENS) // 23).expand(2, -1)
    return model(tokens(), documents)


@torch.no_grad()
def trained(model: HybridLM) -> Tensor:
    """The path with gradients, which may be another one."""
    with torch.enable_grad():
        return model(tokens()).detach()


USES: dict[str, Callable[[HybridLM, HybridLM], Tensor]] = {
    "forward": lambda model, _: whole(model),
    "forward with gradients": lambda model, _: trained(model),
    "packed documents": lambda model, _: packed(model),
    "prefill": lambda model, _: prefilled(model),
    "decode": decoded,
}


def all_uses(model: HybridLM, original: HybridLM) -> dict[str, Tensor]:
    return {name: use(model, original) for name, use in USES.items()}


@functools.cache
def plain(family: str) -> tuple[HybridLM, dict[str, Tensor]]:
    """A model as it is, not to be changed, and its logits."""
    model = model_of(family)
    return model, all_uses(model, model)


def with_adapter(family: str, name: str) -> tuple[HybridLM, nn.Module]:
    """A model with LoRA on one layer alone, its B not zero; the model peft changed in place, and peft's wrapper."""
    model = model_of(family)
    # An exact name: peft takes a list for endings.
    wrapper = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=f"^{name.replace('.', chr(92) + '.')}$")
    )
    return model, wrapper


@pytest.mark.parametrize(("family", "name"), EVERY_LINEAR)
def test_an_adapter_on_any_layer_takes_effect_everywhere(family: str, name: str) -> None:
    original, before = plain(family)
    model, wrapper = with_adapter(family, name)
    torch.testing.assert_close(whole(model), before["forward"], rtol=0, atol=1e-5)

    factor = model.get_submodule(name).lora_B["default"].weight  # type: ignore[union-attr, index]
    nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(2))
    adapted = all_uses(model, original)
    for use, logits in adapted.items():
        assert float((logits - before[use]).abs().max()) > 1e-3, f"{use} ignores an adapter on {name}"

    loss = model.loss(tokens()[:, :-1], tokens()[:, 1:])
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert len(gradients) == 2
    assert all(one is not None and float(one.abs().max()) > 0 for one in gradients.values())

    merged = wrapper.merge_and_unload()
    assert type(merged.get_submodule(name)) is type(original.get_submodule(name))
    for use, logits in all_uses(merged, original).items():
        torch.testing.assert_close(logits, adapted[use], rtol=0, atol=1e-4)


class Recording(nn.Module):
    """A layer that is no `nn.Linear` and has no `weight`, and counts its calls."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.matrix = nn.Parameter(linear.weight.detach().clone())
        self.calls = 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.calls += 1
        return hidden @ self.matrix.t()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use", USES)
def test_every_layer_is_called_once(family: str, use: str) -> None:
    original, model = plain(family)[0], model_of(family)
    recorders = {}
    for name in linear_names(family):
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        recorders[name] = Recording(module)
        replace(model, name, recorders[name])
    logits = USES[use](model, original)
    assert {name: one.calls for name, one in recorders.items()} == dict.fromkeys(recorders, 1)
    torch.testing.assert_close(logits, plain(family)[1][use], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use", USES)
def test_hooks_see_every_layer(family: str, use: str) -> None:
    """Hooks are how tools look into a model: a path around a plain layer would leave them blind."""
    model = model_of(family)
    seen: set[str] = set()
    for name in linear_names(family):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.add(name))
    USES[use](model, model)
    assert seen == set(linear_names(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use", USES)
def test_a_hook_on_one_part_alone_is_called(family: str, use: str) -> None:
    """Projections, norms, convolutions, mixers and feed-forwards: also when everything around them is plain."""
    model = model_of(family)
    parts = {name: part for name, part in model.named_modules() if name and not isinstance(part, nn.ModuleList)}
    blind = []
    for name, part in parts.items():
        calls: list[str] = []
        handle = part.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        USES[use](model, model)
        handle.remove()
        blind += [] if calls else [name]
    assert blind == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("save", "load"), [(save_int8, load_int8), (save_int4, load_int4)], ids=["int8", "int4"])
def test_a_quantized_layer_takes_effect_everywhere(
    family: str, save: Callable[..., None], load: Callable[..., HybridLM], tmp_path: Path
) -> None:
    """One quantized layer at a time in a float model: everything changes a little, and nothing much."""
    original, before = plain(family)
    save(original, tmp_path)
    quantized = load(tmp_path)
    for name in linear_names(family):
        layer = quantized.get_submodule(name)
        if isinstance(layer, nn.Linear):
            assert name.endswith(("f_proj", "a_proj", "b_proj"))
            continue
        model = model_of(family)
        replace(model, name, layer)
        for use in set(USES) - {"forward with gradients"}:
            change = float((USES[use](model, original) - before[use]).norm() / before[use].norm())
            assert 1e-6 < change < 0.2, f"{use}: quantized {name} changes logits by {change}"


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_on_all_layers_learn(family: str) -> None:
    model = model_of(family)
    wrapper = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    original, before = plain(family)
    for use, logits in all_uses(model, original).items():
        torch.testing.assert_close(logits, before[use], rtol=0, atol=1e-5, msg=f"{use}: not the identity at first")
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert set(linear_names(family)) - {"lm_head"} <= set(adapted)
    optimizer = torch.optim.AdamW([one for one in wrapper.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model.loss(tokens()[:, :-1], tokens()[:, 1:])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.3
