from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear, pad, silu, softplus
from torch.utils.flop_counter import FlopCounterMode

from model import Cache, HybridLM, ModelConfig, parameter_count, preset
from model.mixers import Mamba2
from model.ops.reference import naive_state_space_duality
from model.sequence import Sequence
from tests.support.trained_models import small_config, trained_model

DOCUMENT_LENGTHS = ((40, 110), (77, 3, 70))


def mamba2_config(**changes: object) -> ModelConfig:
    fields = {
        "layer_count": 1,
        "pattern": ("mamba2",),
        "mamba2_head_dim": 16,
        "mamba2_state_size": 24,
        "norm_eps": 1e-5,
    }
    return preset("miniature").changed(**(fields | changes))


def random_layer(config: ModelConfig) -> Mamba2:
    """A layer none of whose weights is a constant."""
    layer = Mamba2(config, layer=0)
    for name in ("D", "norm.weight"):
        nn.init.uniform_(layer.get_parameter(name), 0.5, 1.5)
    nn.init.uniform_(layer.dt_bias, -4.0, 1.0)
    return layer


def whole(config: ModelConfig, layer: Mamba2, hidden: Tensor) -> Tensor:
    return layer(hidden, Sequence(config, hidden.shape[0], hidden.shape[1], hidden.device), None)


def outputs_and_gradients(module: nn.Module, run: Callable[[Tensor], Tensor], hidden: Tensor) -> dict[str, Tensor]:
    hidden = hidden.clone().requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)
    output = run(hidden)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    gradients = torch.autograd.grad(output, [hidden, *parameters], weights)
    return {"output": output.detach()} | dict(zip(("hidden", *names), gradients, strict=True))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """`max|a - b| / max|b|` of each."""
    assert found.keys() == expected.keys()
    errors = {name: float((found[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items()}
    assert max(errors.values()) < 1e-5, errors


def mamba_ssms_definition(layer: Mamba2, config: ModelConfig, hidden: Tensor) -> Tensor:
    """The layer as the paper and mamba_ssm state it, token by token, in the dtype of `hidden`."""
    weights = {name: weight.to(hidden.dtype) for name, weight in layer.named_parameters()}
    inner, groups, size = config.mamba2_inner_width, config.mamba2_groups, config.mamba2_state_size
    heads = inner // config.mamba2_head_dim
    projected = linear(hidden, weights["in_proj.weight"])
    gate, mixed, steps = projected.split((inner, inner + 2 * groups * size, heads), dim=-1)
    kernel, bias = weights["conv1d.weight"], weights["conv1d.bias"]
    mixed = conv1d(pad(mixed.transpose(1, 2), (3, 0)), kernel, bias, groups=kernel.shape[0]).transpose(1, 2)
    inputs, B, C = silu(mixed).split((inner, groups * size, groups * size), dim=-1)
    scanned, _ = naive_state_space_duality(
        inputs.unflatten(-1, (heads, -1)),
        softplus(steps + weights["dt_bias"]),
        -weights["A_log"].exp(),
        B.unflatten(-1, (groups, -1)),
        C.unflatten(-1, (groups, -1)),
        skip=weights["D"],
    )
    gated = (scanned.flatten(2) * silu(gate)).unflatten(-1, (groups, -1))
    normed = gated * (gated.square().mean(dim=-1, keepdim=True) + config.norm_eps).rsqrt()
    return linear(normed.flatten(2) * weights["norm.weight"], weights["out_proj.weight"])


@pytest.mark.parametrize("groups", [1, 2])
def test_equals_the_definition_in_float64_with_all_gradients(groups: int) -> None:
    config = mamba2_config(mamba2_groups=groups)
    layer, hidden = random_layer(config), 2 * torch.randn(2, 75, config.width)
    found = outputs_and_gradients(layer, lambda hidden: whole(config, layer, hidden), hidden)
    exact = outputs_and_gradients(
        layer.double(), lambda hidden: mamba_ssms_definition(layer, config, hidden), hidden.double()
    )
    assert_close({name: tensor.double() for name, tensor in found.items()}, exact)


def hugging_face_layer(config: ModelConfig, layer: Mamba2) -> Any:
    from tests.support.transformers_reference import transformers

    granite = transformers.models.granitemoehybrid.modeling_granitemoehybrid
    theirs = granite.GraniteMoeHybridMambaLayer(
        transformers.GraniteMoeHybridConfig(
            hidden_size=config.width,
            num_hidden_layers=1,
            layer_types=["mamba"],
            mamba_n_heads=config.mamba2_inner_width // config.mamba2_head_dim,
            mamba_d_head=config.mamba2_head_dim,
            mamba_d_state=config.mamba2_state_size,
            mamba_n_groups=config.mamba2_groups,
            mamba_expand=config.mamba2_expansion,
            mamba_chunk_size=32,
            rms_norm_eps=config.norm_eps,
        ),
        layer_idx=0,
    )
    theirs.load_state_dict(layer.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("time", [1, 7, 64, 65, 333])
def test_equals_transformers_layer_with_its_weights_and_all_gradients(time: int, groups: int) -> None:
    config = mamba2_config(mamba2_groups=groups)
    layer, hidden = random_layer(config), 2 * torch.randn(2, time, config.width)
    theirs = hugging_face_layer(config, layer).double()
    found = outputs_and_gradients(layer, lambda hidden: whole(config, layer, hidden), hidden)
    expected = outputs_and_gradients(theirs, theirs, hidden.double())
    assert_close(
        {name: tensor.double() for name, tensor in found.items() if time > 1 or name != "A_log"},
        {name: tensor for name, tensor in expected.items() if time > 1 or name != "A_log"},
    )


@torch.no_grad()
def test_prefill_continuation_and_steps_equal_the_full_forward() -> None:
    config = mamba2_config(mamba2_groups=2)
    layer, hidden = random_layer(config), torch.randn(2, 150, config.width)
    cache = Cache(config)
    outputs = []
    for piece in (hidden[:, :1], hidden[:, 1:100], hidden[:, 100:102], *hidden[:, 102:].split(1, dim=1)):
        outputs.append(layer(piece, Sequence(config, 2, piece.shape[1], hidden.device, cache=cache), None))
    assert cache.layers[0]["state"].dtype == torch.float32
    assert cache.layers[0]["state"].shape == (2, 8, 16, 24)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole(config, layer, hidden), atol=1e-5, rtol=1e-5)


def test_a_trained_model_continues_and_packs_exactly() -> None:
    model = trained_model("mamba2").requires_grad_(False)
    tokens = torch.randint(0, 256, (2, 150))
    logits, cache = model(tokens), model.new_cache()
    pieces = [tokens[:, :100], tokens[:, 100:130], *tokens[:, 130:].split(1, dim=1)]
    continued = torch.cat([model(piece, cache=cache) for piece in pieces], dim=1)
    assert (continued - logits).abs().max() < 1e-5 * logits.abs().max()

    ids = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in DOCUMENT_LENGTHS]
    packed = model(tokens, document_ids=torch.stack(ids))
    for row, lengths in enumerate(DOCUMENT_LENGTHS):
        for document, together in zip(tokens[row].split(lengths), packed[row].split(lengths), strict=True):
            alone = model(document.unsqueeze(0)).squeeze(0)
            assert (together - alone).abs().max() < 1e-5 * packed.abs().max()


def test_gradients_do_not_cross_documents() -> None:
    config = mamba2_config()
    layer, hidden = random_layer(config), torch.randn(2, 150, config.width, requires_grad=True)
    ids = torch.stack([torch.repeat_interleave(torch.arange(len(r)), torch.tensor(r)) for r in DOCUMENT_LENGTHS])
    output = layer(hidden, Sequence(config, 2, 150, hidden.device, document_ids=ids), None)
    (gradient,) = torch.autograd.grad(output[1, 77:80].square().sum(), hidden)
    assert gradient[1, 77:80].abs().sum() > 0
    assert gradient[1, :77].abs().max() == gradient[1, 80:].abs().max() == gradient[0].abs().max() == 0


def test_state_and_step_sizes_stay_in_float32_under_autocast() -> None:
    config = mamba2_config()
    layer, hidden = random_layer(config), torch.randn(2, 70, config.width)
    exact, cache = whole(config, layer, hidden), Cache(config)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = layer(hidden, Sequence(config, 2, 70, hidden.device, cache=cache), None)
    assert cache.layers[0]["state"].dtype == torch.float32
    assert (output.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_initial_values_are_mamba_ssms() -> None:
    layer = Mamba2(mamba2_config(width=512, hgrn2_head_dim=64), layer=0)
    rates, steps = layer.A_log.exp(), softplus(layer.dt_bias)
    assert rates.min() >= 1 and rates.max() <= 16 and rates.max() > 12
    assert steps.min() >= 0.99e-3 and steps.max() <= 0.101
    assert 0.003 < steps.log().mean().exp() < 0.03  # log-uniform: the mean of the logarithm is that of 0.01
    assert torch.equal(layer.D, torch.ones_like(layer.D))


def test_parameter_names_and_shapes_are_mamba_ssms() -> None:
    layer = Mamba2(mamba2_config(mamba2_groups=2), layer=0)
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == {
        "in_proj.weight": (128 + 128 + 2 * 2 * 24 + 8, 64),
        "conv1d.weight": (128 + 2 * 2 * 24, 1, 4),
        "conv1d.bias": (128 + 2 * 2 * 24,),
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }


@pytest.mark.parametrize("changes", [{}, {"mamba2_groups": 2}, {"mamba2_expansion": 3, "mamba2_state_size": 5}])
def test_sizes_are_those_of_the_built_layer(changes: dict[str, object]) -> None:
    config = mamba2_config(**changes)
    layer = Mamba2(config, layer=0)
    linears = sum(module.weight.numel() for module in layer.modules() if isinstance(module, nn.Linear))
    assert Mamba2.linear_parameter_count(config) == linears
    assert Mamba2.parameter_count(config) == sum(parameter.numel() for parameter in layer.parameters())
    cache = Cache(config)
    with torch.no_grad():
        layer(torch.randn(1, 9, config.width), Sequence(config, 1, 9, torch.device("cpu"), cache=cache), None)
    held = sum(tensor.numel() * tensor.element_size() for tensor in cache.layers[0].values())
    assert sum(Mamba2.cache_bytes(config, 9, element_bytes=4)) == held


def test_mixing_flops_are_those_of_the_products() -> None:
    config = mamba2_config()
    inner, size, time = config.mamba2_inner_width, config.mamba2_state_size, 128
    layer, hidden = random_layer(config), torch.randn(1, time, config.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(config, layer, hidden)
    counted = counter.get_total_flops() / time - 2 * Mamba2.linear_parameter_count(config)
    # What the counter leaves out: the convolution, which is element-wise, and the states' products, done in place.
    uncounted = 2 * 4 * (inner + 2 * size) + 2 * inner * size
    assert Mamba2.mixing_flops(config, time) == pytest.approx(counted + uncounted)


def test_builds_without_memory_and_counts_a_hybrid() -> None:
    config = small_config("mamba2")
    with torch.device("meta"):
        model = HybridLM(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert parameter_count(config).total == sum(parameter.numel() for parameter in model.parameters())


def test_residual_projection_is_scaled_with_depth() -> None:
    layers = [HybridLM(mamba2_config(layer_count=count, width=256)).layers[0].attn for count in (1, 16)]
    shallow, deep = (float(layer.get_parameter("out_proj.weight").detach().std()) for layer in layers)
    assert deep == pytest.approx(shallow / 4, rel=0.1)


def test_a_module_put_in_place_of_a_projection_takes_effect() -> None:
    config = mamba2_config()
    layer, hidden = random_layer(config), torch.randn(1, 20, config.width)
    plain = whole(config, layer, hidden)
    for name in ("in_proj", "out_proj"):
        linear_layer = getattr(layer, name)
        setattr(layer, name, nn.Sequential(linear_layer, nn.Dropout(1.0)))
        assert not torch.allclose(plain, whole(config, layer, hidden))
        setattr(layer, name, linear_layer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mamba2_head_dim": 48}, r"mamba2_head_dim=48 does not divide mamba2_expansion \* width = 128"),
        ({"mamba2_groups": 3}, "mamba2_groups=3 does not divide the 8 heads"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        mamba2_config(**fields)
