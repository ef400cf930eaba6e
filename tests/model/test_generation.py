from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import GenerationError, HybridLM, SamplingConfig, generate, prefill, stream
from model.generation import sample

PROMPT = list(range(10, 40))


@torch.no_grad()
def test_greedy_decoding_follows_the_full_forward(miniature: HybridLM) -> None:
    new = generate(miniature, PROMPT, 12)[0]
    tokens = list(PROMPT)
    for token in new:
        assert token == int(miniature(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(token)


@torch.no_grad()
def test_prefill_by_segments_equals_prefill_at_once(miniature: HybridLM, tokens: Tensor) -> None:
    whole = prefill(miniature, tokens, miniature.new_cache())
    segments = prefill(miniature, tokens, miniature.new_cache(), segment_tokens=33)
    torch.testing.assert_close(segments, whole, atol=1e-5, rtol=1e-5)


def test_a_seed_fixes_the_draw(miniature: HybridLM) -> None:
    draws = [generate(miniature, PROMPT, 20, SamplingConfig(seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_streaming_yields_the_same_tokens_one_by_one(miniature: HybridLM) -> None:
    prompts = [PROMPT, PROMPT[::-1]]
    sampling = SamplingConfig(seed=3, top_k=20, top_p=0.9)
    steps = list(stream(miniature, prompts, 8, sampling))
    assert [list(row) for row in zip(*steps, strict=True)] == generate(miniature, prompts, 8, sampling)


def test_each_row_ends_with_its_own_stop_token(miniature: HybridLM) -> None:
    prompts = [PROMPT, PROMPT[::-1]]
    free = generate(miniature, prompts, 10)
    stop = free[0][2]
    stopped = generate(miniature, prompts, 10, stop_tokens={stop})
    for before, after in zip(free, stopped, strict=True):
        expected = before[: before.index(stop) + 1] if stop in before else before
        assert after == expected


def test_a_cache_carries_the_conversation_on(miniature: HybridLM) -> None:
    cache = miniature.new_cache()
    first = generate(miniature, PROMPT, 1, cache=cache)[0]
    second = generate(miniature, first, 5, cache=cache)[0]
    assert first + second == generate(miniature, PROMPT, 6)[0]


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(400, -1)
    assert set(sample(logits, SamplingConfig(top_k=2)).tolist()) == {0, 1}
    assert set(sample(logits, SamplingConfig(top_p=0.05)).tolist()) == {0}
    assert set(sample(logits, SamplingConfig(top_p=0.7)).tolist()) == {0, 1}
    assert set(sample(logits, SamplingConfig(temperature=0)).tolist()) == {0}


def test_no_new_tokens_asked_for(miniature: HybridLM) -> None:
    assert generate(miniature, [PROMPT, PROMPT], 0) == [[], []]


@pytest.mark.parametrize(
    ("prompts", "new_tokens", "message"),
    [
        ([[1, 2], [1]], 5, "different lengths \\(1, 2 tokens\\)"),
        ([], 5, "empty prompt"),
        ([1, 2, 3], 5000, "over the model's maximum_context of 2048"),
    ],
)
def test_impossible_requests_are_refused(
    miniature: HybridLM, prompts: list[int], new_tokens: int, message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(miniature, prompts, new_tokens)
