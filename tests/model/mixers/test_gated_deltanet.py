from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, linear, pad, silu, softplus
from torch.utils.flop_counter import FlopCounterMode

from model import HybridLM, ModelConfig, parameter_count, preset
from model.cache import Cache
from model.mixers import GatedDeltaNet
from model.ops.reference import naive_gated_delta_rule
from model.sequence import Sequence

CONFIG = preset("miniature").changed(pattern=("gated_deltanet",), gated_deltanet_head_dim=16, norm_eps=1e-5)
SHAPES: list[dict[str, object]] = [
    {},
    {"gated_deltanet_heads": 3, "gated_deltanet_value_expansion": 1},
    {"width": 96, "gated_deltanet_head_dim": 24, "gated_deltanet_value_expansion": 3},
]


def flash_linear_attention_layer(weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
    """The layer as flash-linear-attention's `GatedDeltaNet` states it, token by token, in the inputs' precision."""
    heads, value_dim = weights["A_log"].shape[0], weights["o_norm.weight"].shape[0]
    key_dim = weights["q_proj.weight"].shape[0] // heads

    def projected(name: str) -> Tensor:
        return linear(hidden, weights[f"{name}_proj.weight"])

    def convolved(name: str) -> Tensor:
        kernel = weights[f"{name}_conv1d.weight"]
        padded = pad(projected(name).transpose(1, 2), (kernel.shape[-1] - 1, 0))
        return silu(conv1d(padded, kernel, groups=kernel.shape[0]).transpose(1, 2))

    query, key, value, gate = (
        part.unflatten(-1, (-1, size))
        for part, size in (
            (convolved("q"), key_dim),
            (convolved("k"), key_dim),
            (convolved("v"), value_dim),
            (projected("g"), value_dim),
        )
    )
    query, key = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (query, key))
    log_decay = -weights["A_log"].exp() * softplus(projected("a") + weights["dt_bias"])
    mixed, _ = naive_gated_delta_rule(query, key, value, log_decay, projected("b").sigmoid())
    normed = mixed * (mixed.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weights["o_norm.weight"]
    return linear((normed * silu(gate)).flatten(2), weights["o_proj.weight"])


def double_weights(layer: GatedDeltaNet) -> dict[str, Tensor]:
    return {name: weight.detach().double() for name, weight in layer.state_dict().items()}


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact).abs().max() / exact.abs().max())


def layer_of(config: ModelConfig) -> GatedDeltaNet:
    layer = GatedDeltaNet(config, layer=0)
    with torch.no_grad():
        layer.o_norm.weight.uniform_(0.5, 1.5)
    return layer


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES)
def test_equals_flash_linear_attentions_definition(changes: dict[str, object]) -> None:
    config = CONFIG.changed(**changes)
    layer, hidden = layer_of(config), 2 * torch.randn(2, 75, config.width)
    output = layer(hidden, Sequence(config, 2, 75, hidden.device), None)
    expected = flash_linear_attention_layer(double_weights(layer), hidden.double())
    torch.testing.assert_close(output.double(), expected, atol=1e-6, rtol=1e-5)


def test_every_gradient_equals_that_of_the_definition() -> None:
    layer, hidden = layer_of(CONFIG), torch.randn(2, 40, CONFIG.width, requires_grad=True)
    weights = torch.randn(2, 40, CONFIG.width)
    layer(hidden, Sequence(CONFIG, 2, 40, hidden.device), None).backward(weights)
    leaves = {name: weight.requires_grad_() for name, weight in double_weights(layer).items()}
    inputs = hidden.detach().double().requires_grad_()
    flash_linear_attention_layer(leaves, inputs).backward(weights.double())
    found = {name: parameter.grad for name, parameter in layer.named_parameters()} | {"hidden": hidden.grad}
    for name, leaf in (leaves | {"hidden": inputs}).items():
        gradient = found[name]
        assert gradient is not None and leaf.grad is not None
        assert relative_error(gradient, leaf.grad) < 1e-5, name


@torch.no_grad()
def test_continues_from_its_cache() -> None:
    layer, hidden = layer_of(CONFIG), torch.randn(2, 90, CONFIG.width)
    whole = layer(hidden, Sequence(CONFIG, 2, 90, hidden.device), None)
    cache, parts = Cache(CONFIG), []
    for begin, end in ((0, 70), (70, 71), (71, 88), (88, 89), (89, 90)):
        part = hidden[:, begin:end]
        parts.append(layer(part, Sequence(CONFIG, 2, end - begin, hidden.device, cache=cache), None))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_packed_documents_equal_documents_one_by_one() -> None:
    layer, hidden = layer_of(CONFIG), torch.randn(1, 80, CONFIG.width)
    ids = torch.tensor([[0] * 2 + [1] * 68 + [2] * 10])
    packed = layer(hidden, Sequence(CONFIG, 1, 80, hidden.device, document_ids=ids), None)
    apart = [
        layer(part, Sequence(CONFIG, 1, part.shape[1], hidden.device), None)
        for part in hidden.split([2, 68, 10], dim=1)
    ]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", SHAPES)
def test_declared_sizes_are_those_of_the_built_layer(changes: dict[str, object]) -> None:
    config = CONFIG.changed(**changes)
    layer = GatedDeltaNet(config, layer=0)
    assert GatedDeltaNet.parameter_count(config) == sum(parameter.numel() for parameter in layer.parameters())
    matrices = [module.weight.numel() for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    assert GatedDeltaNet.linear_parameter_count(config) == sum(matrices)
    cache = Cache(config)
    with torch.no_grad():
        layer(torch.randn(1, 9, config.width), Sequence(config, 1, 9, torch.device("cpu"), cache=cache), None)
    held = sum(tensor.nbytes for tensor in cache.layers[0].values())
    assert GatedDeltaNet.cache_bytes(config, 9, 4) == (0, held)


def test_default_size_is_six_square_matrices() -> None:
    config = CONFIG.changed(width=256, gated_deltanet_head_dim=64)
    assert GatedDeltaNet.linear_parameter_count(config) == 6 * 256**2 + 2 * 3 * 256


def test_counted_operations_are_those_of_the_chunked_form() -> None:
    def product(_: object, left: list[int], right: list[int], *__: object, **___: object) -> int:
        return 2 * left[0] * left[1] * left[2] * right[2]

    config = CONFIG.changed(gated_deltanet_heads=2)
    layer, hidden = layer_of(config), torch.randn(1, 128, config.width)
    with (
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: product}) as counter,
    ):
        layer(hidden, Sequence(config, 1, 128, hidden.device), None)
    outside = counter.get_total_flops() / 128 - 2 * GatedDeltaNet.linear_parameter_count(config)
    assert GatedDeltaNet.mixing_flops(config, 128) == pytest.approx(outside, rel=0.15)


def test_starts_with_decay_rates_and_time_steps_of_the_paper() -> None:
    layer = GatedDeltaNet(CONFIG.changed(gated_deltanet_heads=64), layer=0)
    rates, steps = layer.A_log.detach().exp(), softplus(layer.dt_bias).detach()
    assert 0 < rates.min() < 2 and 14 < rates.max() < 16
    assert 1e-3 <= steps.min() < 3e-3 and 3e-2 < steps.max() <= 0.1 + 1e-6
    assert math.isclose(float(steps.log().mean()), math.log(1e-2), abs_tol=0.5)


def test_loads_into_a_model_without_storage() -> None:
    trained = HybridLM(CONFIG)
    with torch.device("meta"):
        model = HybridLM(CONFIG)
    model.load_state_dict(trained.state_dict(), assign=True)
    model.tie()
    tokens = torch.randint(0, 256, (1, 20))
    assert torch.equal(model(tokens), trained(tokens))
    assert parameter_count(CONFIG).total == sum(parameter.numel() for parameter in trained.parameters())


def test_sixteen_bit_parameters_compute_decays_in_float32() -> None:
    layer = layer_of(CONFIG).bfloat16()
    hidden = torch.randn(1, 40, CONFIG.width).bfloat16()
    output = layer(hidden, Sequence(CONFIG, 1, 40, hidden.device), None)
    exact = flash_linear_attention_layer(double_weights(layer), hidden.double())
    assert output.dtype == torch.bfloat16
    assert relative_error(output, exact) < 0.03
    output.float().sum().backward()
    assert layer.A_log.grad is not None and layer.A_log.grad.isfinite().all()
