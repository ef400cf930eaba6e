from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import GenerationError, SamplingConfig
from model.generation import sample
from model.generation.sampling import candidates, limits, uniform

# Few distinct values, so that ties are common; some so far apart that probabilities underflow.
values = st.sampled_from([-200.0, -3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 4.0, 60.0]) | st.floats(-8, 8, width=32)
rows = st.integers(1, 4).flatmap(
    lambda batch: st.integers(1, 12).flatmap(
        lambda size: st.lists(st.lists(values, min_size=size, max_size=size), min_size=batch, max_size=batch)
    )
)
shares = st.floats(0.01, 1.0)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture(autouse=True, params=[2, 256])
def _head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a head smaller than the vocabularies here, and with one that holds them."""
    monkeypatch.setattr("model.generation.sampling._HEAD", request.param)


def kept(logits: Tensor, **fields: object) -> Tensor:
    """Which tokens pass the filters; each row must agree with the head's answer where that is complete."""
    configs = [SamplingConfig(**fields)] * len(logits)
    size = logits.shape[-1]
    whole, _ = candidates(logits, limits(configs, logits), size)
    for count in range(1, min(size, 6)):
        head, enough = candidates(logits, limits(configs, logits), count)
        of_head = torch.zeros_like(whole.kept).scatter_(-1, head.tokens, head.kept)
        assert torch.equal(of_head[enough], whole.kept[enough])
    return whole.kept


@UNHURRIED
@given(rows, st.integers(1, 14))
def test_top_k_keeps_exactly_the_k_likeliest(values: list[list[float]], k: int) -> None:
    logits = torch.tensor(values)
    mask = kept(logits, top_k=k)
    assert mask.sum(-1).tolist() == [min(k, logits.shape[1])] * len(logits)
    for row, inside in zip(logits, mask, strict=True):
        assert inside.all() or row[inside].min() >= row[~inside].max()


@UNHURRIED
@given(rows, shares)
def test_top_p_keeps_the_smallest_set_that_reaches_p(values: list[list[float]], p: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    probabilities = logits.softmax(-1)
    for row, inside in zip(probabilities, kept(logits, top_p=p), strict=True):
        assert inside.any()
        assert inside.all() or row[inside].min() >= row[~inside].max()
        assert row[inside].sum() >= p - 1e-9
        # Without its least likely token the set would not do.
        assert row[inside].sum() - row[inside].min() < p + 1e-9


@UNHURRIED
@given(rows, shares)
def test_min_p_keeps_what_is_likely_enough(values: list[list[float]], p: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    shares_of_largest = (logits - logits.amax(-1, keepdim=True)).exp()
    mask = kept(logits, min_p=p)
    assert mask[shares_of_largest > p * (1 + 1e-6)].all() and not mask[shares_of_largest < p * (1 - 1e-6)].any()
    assert mask.gather(-1, logits.argmax(-1, keepdim=True)).all()


@UNHURRIED
@given(rows, st.integers(1, 5), shares, shares, st.floats(0.0, 5.0), st.data())
def test_whatever_is_drawn_passed_all_filters(
    values: list[list[float]], k: int, top_p: float, min_p: float, temperature: float, data: st.DataObject
) -> None:
    logits = torch.tensor(values)
    config = SamplingConfig(top_k=k, top_p=top_p, min_p=min_p, temperature=temperature)
    draw = data.draw(st.floats(0, 1, exclude_max=True))
    chosen = sample(logits, config, torch.full((len(logits),), draw, dtype=torch.float64))
    if temperature == 0:
        assert chosen.tolist() == [row.index(max(row)) for row in logits.tolist()]
    else:
        assert kept(logits / max(temperature, 1e-6), **config.model_dump()).gather(-1, chosen.unsqueeze(-1)).all()


@UNHURRIED
@given(rows, st.data())
def test_rows_are_chosen_as_if_alone(values: list[list[float]], data: st.DataObject) -> None:
    logits = torch.tensor(values)
    config = st.builds(
        SamplingConfig,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        top_k=st.none() | st.integers(1, 5),
        top_p=st.none() | shares,
        min_p=st.none() | shares,
        repetition_penalty=st.sampled_from([1.0, 0.7, 1.5]),
    )
    configs = [data.draw(config) for _ in values]
    draws = torch.tensor([data.draw(st.floats(0, 1, exclude_max=True)) for _ in values], dtype=torch.float64)
    seen = torch.tensor([[data.draw(st.booleans()) for _ in row] for row in values])
    together = sample(logits, configs, draws, seen)
    for row, token in enumerate(together):
        part = slice(row, row + 1)
        assert sample(logits[part], configs[part], draws[part], seen[part]) == token


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, -1)
    draws = torch.tensor([uniform(7, position) for position in range(4000)], dtype=torch.float64)
    for config in (SamplingConfig(), SamplingConfig(temperature=2.0), SamplingConfig(top_k=3)):
        frequencies = sample(logits, config, draws).bincount(minlength=4) / 4000
        expected = (logits[0].double() / config.temperature).softmax(-1)
        if config.top_k:
            expected = expected * torch.tensor([1, 1, 1, 0]) / expected[:3].sum()
        torch.testing.assert_close(frequencies.double(), expected, atol=0.03, rtol=0)
        assert (frequencies[expected == 0] == 0).all()


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]])
    seen = torch.tensor([[True, False, True, False]])
    penalised = SamplingConfig(temperature=0, repetition_penalty=1.2)
    assert sample(logits, penalised, seen=seen) == 1
    assert sample(logits[:, 2:], penalised, seen=seen[:, 2:]) == 1
    assert sample(logits, penalised, seen=torch.zeros_like(seen)) == 0


def test_equally_likely_tokens_fall_to_the_lowest() -> None:
    logits = torch.zeros(3, 5000)
    logits[1, [4000, 700]] = 1.0
    assert sample(logits, SamplingConfig(temperature=0)).tolist() == [0, 700, 0]
    assert kept(logits, top_k=1).nonzero().tolist() == [[0, 0], [1, 700], [2, 0]]


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4 - 1, 0.0]])
    draws = torch.tensor([0.999])
    assert sample(logits, SamplingConfig(temperature=temperature), draws) == (3 if temperature > 1 else 0)


def test_large_vocabularies_are_filtered_as_if_sorted() -> None:
    logits = torch.randn(6, 3000).mul(3).round(decimals=1)
    configs = [
        SamplingConfig(top_k=700), SamplingConfig(top_p=0.3), SamplingConfig(top_p=0.999), SamplingConfig(),
        SamplingConfig(top_k=300, top_p=0.9), SamplingConfig(top_k=5000, top_p=0.97, min_p=1e-3),
    ]  # fmt: skip
    found, _ = candidates(logits, limits(configs, logits), 3000)
    for row, config, result in zip(logits, configs, found.kept, strict=True):
        ordered, order = row.double().sort(descending=True, stable=True)
        shares_of_all = ordered.softmax(-1)
        ranks = torch.arange(3000)
        inside = ranks < (config.top_k or 3000)
        nucleus = (shares_of_all * inside) / (shares_of_all * inside).sum()
        inside &= (nucleus.cumsum(-1) - nucleus < (config.top_p or 1)) | (config.top_p is None)
        inside &= shares_of_all >= (config.min_p or 0) * shares_of_all[0]
        assert result.nonzero().flatten().tolist() == order[inside].sort().values.tolist()


def test_draws_without_a_seed_differ() -> None:
    assert len(set(sample(torch.zeros(50, 1000), SamplingConfig()).tolist())) > 25


@UNHURRIED
@given(st.integers(-(2**70), 2**70), st.integers(0, 10**9))
def test_uniform_is_a_function_into_zero_to_one(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position) != uniform(seed, position + 1)


def test_uniform_is_even_and_uncorrelated() -> None:
    table = torch.tensor([[uniform(seed, position) for position in range(200)] for seed in range(50)])
    assert abs(table.mean() - 0.5) < 0.01 and abs(table.var() - 1 / 12) < 0.003
    assert (torch.corrcoef(table).fill_diagonal_(0).abs() < 0.35).all()
    assert abs(torch.corrcoef(torch.stack([table[:, :-1].flatten(), table[:, 1:].flatten()]))[0, 1]) < 0.03


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(GenerationError, match="weights are damaged"):
        sample(torch.tensor([[0.0, value]]), SamplingConfig(temperature=0))
