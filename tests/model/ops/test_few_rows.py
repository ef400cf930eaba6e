from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model import HybridLM
from model.linear import Linear
from model.norms import RMSNorm
from model.ops import few_rows
from model.ops.convolution import next_convolution_state, short_convolution
from model.ops.gated_delta_rule import L2_NORM_EPS, l2_normalised, step_gated_delta_rule
from model.ops.gated_linear_attention import step_gated_linear_attention
from model.ops.hgrn2_gate import hgrn2_gate
from model.ops.rotary import rotary_tables, rotate
from model.ops.state_space_duality import step_state_space_duality
from tests.support.trained_models import small_config, text

EXACT = {"atol": 2e-6, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _on_one_thread_without_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize(("size", "length"), [(96, 64), (7, 33)])
def test_product(rows: int, size: int, length: int) -> None:
    hidden, weight = torch.randn(rows, 1, length), torch.randn(size, length)
    torch.testing.assert_close(few_rows.product(hidden, weight), hidden @ weight.t(), atol=2e-5, rtol=1e-5)


def test_several_products_and_a_feed_forward() -> None:
    hidden = torch.randn(3, 1, 24)
    gate, up, down = torch.randn(40, 24), torch.randn(40, 24), torch.randn(24, 40)
    for output, weight in zip(few_rows.products(hidden, [gate, up]), (gate, up), strict=True):
        assert torch.equal(output, few_rows.product(hidden, weight))
    norm = torch.randn(24)
    normed = functional.rms_norm(hidden, (24,), norm, 1e-6)
    expected = hidden + (functional.silu(normed @ gate.t()) * (normed @ up.t())) @ down.t()
    output = few_rows.feed_forward(hidden, norm, 1e-6, gate, up, down)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def test_rms_norm_and_gate() -> None:
    hidden, gate, norm = torch.randn(3, 1, 40), torch.randn(3, 1, 40), RMSNorm(40, 1e-6)
    norm.weight.normal_()
    expected = functional.rms_norm(hidden, (40,), norm.weight, norm.eps)
    torch.testing.assert_close(few_rows.rms_norm(hidden, norm.weight, norm.eps), expected, **EXACT)
    torch.testing.assert_close(few_rows.gate_with_silu(gate, hidden), functional.silu(gate) * hidden, **EXACT)


def test_what_is_not_finite_stays_so() -> None:
    damaged = torch.tensor([[float("nan"), 1.0, 2.0]])
    assert few_rows.rms_norm(damaged, torch.ones(3), 1e-6).isnan().all()
    assert few_rows.product(damaged, torch.ones(2, 3)).isnan().all()
    assert few_rows.gate_with_silu(damaged, torch.ones(1, 3))[0, 0].isnan()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_attend(rows: int, heads: int, groups: int) -> None:
    query = 3 * torch.randn(rows, heads, 1, 16)
    keys, values = (torch.randn(rows, groups, 50, 16)[:, :, :37] for _ in range(2))
    assert few_rows.takes_keys(query, keys, values)
    expected = functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True)
    torch.testing.assert_close(few_rows.attend(query, keys, values), expected, **EXACT)
    by_time = keys.transpose(1, 2).contiguous().transpose(1, 2)
    assert few_rows.takes_keys(query, by_time, by_time) == (rows == groups == 1)


def test_attend_with_scores_far_apart() -> None:
    query, keys, values = torch.full((1, 1, 1, 4), 50.0), torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 4)
    expected = functional.scaled_dot_product_attention(query, keys, values)
    torch.testing.assert_close(few_rows.attend(query, keys, values), expected, **EXACT)


def test_rotated() -> None:
    heads = torch.randn(2, 1, 3, 16)
    tables = rotary_tables(torch.tensor([1234]), 16, 1e4)
    expected = torch.addcmul(heads * tables.cosine, heads.roll(8, dims=-1), tables.sine)
    torch.testing.assert_close(rotate(heads, tables), expected, **EXACT)
    torch.testing.assert_close(few_rows.rotated(heads, *tables), expected, **EXACT)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_convolution_step(silu: bool, biased: bool) -> None:
    inputs, state, weight = torch.randn(2, 1, 24), torch.randn(2, 3, 24), torch.randn(24, 1, 4)
    bias = torch.randn(24) if biased else None
    expected = short_convolution(inputs, weight, state=state)
    expected = expected if bias is None else expected + bias
    output, new_state = few_rows.convolution_step(inputs, weight, bias, state, silu)
    torch.testing.assert_close(output, functional.silu(expected) if silu else expected, **EXACT)
    assert torch.equal(new_state, next_convolution_state(inputs, 4, state))


@pytest.mark.parametrize("bound", [None, 0.0, 0.3])
def test_hgrn2_step(bound: float | None) -> None:
    query, forget, value = (torch.randn(2, 1, 48) for _ in range(3))
    state = torch.randn(2, 3, 16, 16)
    before = state.clone()
    lower_bound = None if bound is None else torch.full((48,), bound)
    key, log_decay = hgrn2_gate(forget, lower_bound)
    heads = (part[:, 0].unflatten(-1, (3, 16)) for part in (functional.silu(query), key, value, log_decay))
    expected, expected_state = step_gated_linear_attention(*heads, state)
    output, new_state = few_rows.hgrn2_step(query, forget, value, lower_bound, state)
    torch.testing.assert_close(output[:, 0].unflatten(-1, (3, 16)), expected, **EXACT)
    torch.testing.assert_close(new_state, expected_state, **EXACT)
    assert torch.equal(state, before)


def test_gated_delta_step() -> None:
    query, key, value = torch.randn(2, 1, 48), torch.randn(2, 1, 48), torch.randn(2, 1, 60)
    decay_input, beta_input, decay_rates, bias = (torch.randn(size) for size in ((2, 1, 3), (2, 1, 3), 3, 3))
    state = torch.randn(2, 3, 16, 20)
    before = state.clone()
    heads = [l2_normalised(part[:, 0].unflatten(-1, (3, 16))) for part in (query, key)]
    log_decay = -decay_rates.exp() * functional.softplus(decay_input[:, 0] + bias)
    values, beta = value[:, 0].unflatten(-1, (3, 20)), beta_input[:, 0].sigmoid()
    expected, expected_state = step_gated_delta_rule(*heads, values, log_decay, beta, state)
    inputs = (query, key, value, decay_input, beta_input, decay_rates, bias)
    output, new_state = few_rows.gated_delta_step(*inputs, state, L2_NORM_EPS)
    torch.testing.assert_close(output[:, 0].unflatten(-1, (3, 20)), expected, **EXACT)
    torch.testing.assert_close(new_state, expected_state, **EXACT)
    assert torch.equal(state, before)


@pytest.mark.parametrize("groups", [1, 2])
def test_state_space_step(groups: int) -> None:
    heads, head_dim, size = 4, 8, 12
    mixed, step_inputs = torch.randn(2, 1, heads * head_dim + 2 * groups * size), 10 * torch.randn(2, 1, heads)
    bias, decay_rates, skip = torch.randn(heads), torch.randn(heads), torch.randn(heads)
    state = torch.randn(2, heads, head_dim, size)
    x, B, C = mixed[:, 0].split((heads * head_dim, groups * size, groups * size), dim=-1)
    step_sizes = functional.softplus(step_inputs[:, 0] + bias)
    parts = x.unflatten(-1, (heads, -1)), step_sizes, -decay_rates.exp()
    B, C = (part.unflatten(-1, (groups, -1)) for part in (B, C))
    expected, expected_state = step_state_space_duality(*parts, B, C, state, skip=skip)
    output, new_state = few_rows.state_space_step(mixed, step_inputs, bias, decay_rates, skip, state, groups)
    torch.testing.assert_close(output[:, 0], expected.flatten(1), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(new_state, expected_state, atol=2e-5, rtol=1e-5)


def test_only_few_float32_rows_without_gradients_take_it() -> None:
    row = torch.randn(1, 1, 16)
    assert few_rows.takes_compiled(row)
    assert not few_rows.takes_compiled(row.double())
    assert not few_rows.takes_compiled(row.expand(9, 1, 16))
    with torch.enable_grad():
        assert not few_rows.takes_compiled(row)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not few_rows.takes_compiled(row)


@pytest.mark.parametrize("family", ["hgrn2", "gated_deltanet", "mamba2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_steps_equal_the_whole_forward(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HybridLM(small_config(family)).eval()
    tokens = text()[: rows * 80].view(rows, 80)
    expected = model(tokens)
    cache = model.new_cache()
    taken = _counted(monkeypatch)
    steps = [model(piece, cache=cache) for piece in (tokens[:, :70], *tokens[:, 70:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-5, rtol=1e-4)
    assert len(taken) >= 10 * len(model.layers)


def test_a_changed_weight_and_an_adapter_take_effect() -> None:
    model = HybridLM(small_config("hgrn2")).eval()
    tokens = text()[:40].unsqueeze(0)

    def last() -> Tensor:
        cache = model.new_cache()
        model(tokens[:, :39], cache=cache)
        return model(tokens[:, 39:], cache=cache)[:, -1]

    first = last()
    model.layers[1].attn.q_proj.weight.mul_(1.5)
    second = last()
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, model(tokens)[:, -1], atol=1e-5, rtol=1e-4)
    plain = model.layers[2].mlp.down_proj
    model.layers[2].mlp.down_proj = nn.Sequential(plain, Linear(64, 64))
    torch.testing.assert_close(last(), model(tokens)[:, -1], atol=1e-5, rtol=1e-4)
    third = last()
    assert not torch.allclose(second, third)
    model.layers[0].mlp.gate_proj.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert not torch.allclose(third, last())


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every compiled feed-forward, and every compiled product of one weight."""
    taken: list[int] = []

    def counting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*arguments: Tensor) -> Tensor:
            taken.append(1)
            return function(*arguments)

        return counted

    for name in ("product", "feed_forward"):
        monkeypatch.setattr(few_rows, name, counting(getattr(few_rows, name)))
    return taken
