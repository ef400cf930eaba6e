from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from model import GenerationError, HybridLM, SamplingConfig, generate, stream
from model.generation import FinishReason, GenerationRequest, after_seconds, generate_sequences, stream_requests

PROMPT = list(range(10, 40))
PromptOf = Callable[[int, int], list[int]]


def forward_passes(model: HybridLM) -> list[int]:
    """Filled with the number of rows of every forward pass to come."""
    rows: list[int] = []
    model.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    return rows


@torch.no_grad()
def test_greedy_decoding_follows_the_full_forward(trained: HybridLM, prompt_of: PromptOf) -> None:
    tokens = prompt_of(0, 50)
    for token in generate(trained, list(tokens), 12)[0]:
        assert token == int(trained(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(token)


def test_a_ragged_batch_writes_what_each_prompt_writes_alone(trained: HybridLM, prompt_of: PromptOf) -> None:
    prompts = [prompt_of(0, 70), prompt_of(500, 3), prompt_of(900, 70), prompt_of(1300, 71), prompt_of(2000, 131)]
    together = generate_sequences(trained, prompts, [9, 14, 3, 20, 6], log_probabilities=True)
    for prompt, most, row in zip(prompts, [9, 14, 3, 20, 6], together, strict=True):
        (alone,) = generate_sequences(trained, prompt, most, log_probabilities=True)
        assert row.tokens == alone.tokens and len(row.tokens) == most
        assert row.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


def test_a_seeded_row_does_not_depend_on_its_batch(trained: HybridLM, prompt_of: PromptOf) -> None:
    prompts = [prompt_of(start, length) for start, length in ((0, 20), (300, 33), (700, 8))]
    samplings = [
        SamplingConfig(seed=1, temperature=0.8, top_k=20),
        SamplingConfig(seed=2, top_p=0.9, repetition_penalty=1.3),
        SamplingConfig(seed=3, temperature=1.5, min_p=0.02),
    ]
    together = generate(trained, prompts, 12, samplings)
    alone = [generate(trained, *row)[0] for row in zip(prompts, [12] * 3, samplings, strict=True)]
    assert together == alone


def test_a_seed_fixes_the_draw(miniature: HybridLM) -> None:
    draws = [generate(miniature, PROMPT, 20, SamplingConfig(seed=seed)) for seed in (1, 1, 2, None, None)]
    assert draws[0] == draws[1]
    assert len({tuple(draw[0]) for draw in draws}) == 4


def test_log_probabilities_are_the_models_own(miniature: HybridLM) -> None:
    sampling = SamplingConfig(seed=0, temperature=0.5, top_k=5)
    (row,) = generate_sequences(miniature, PROMPT, 6, sampling, log_probabilities=True)
    with torch.no_grad():
        likelihoods = miniature(torch.tensor([PROMPT + row.tokens])).log_softmax(-1)[0, len(PROMPT) - 1 : -1]
    expected = likelihoods.gather(-1, torch.tensor(row.tokens).unsqueeze(-1)).flatten().tolist()
    assert row.log_probabilities == pytest.approx(expected, abs=1e-4)


def test_streaming_yields_the_same_tokens_one_by_one(miniature: HybridLM) -> None:
    prompts = [PROMPT, PROMPT[:7]]
    sampling = SamplingConfig(seed=3, top_k=20, top_p=0.9)
    streamed: list[list[int]] = [[], []]
    for new in stream(miniature, prompts, 8, sampling):
        streamed[new.row].append(new.token)
        assert (new.finish is FinishReason.LENGTH) == (len(streamed[new.row]) == 8)
    assert streamed == generate(miniature, prompts, 8, sampling)


def test_each_row_ends_with_its_own_stop_and_leaves_the_batch(miniature: HybridLM) -> None:
    prompts = [PROMPT, PROMPT[::-1], PROMPT[:11]]
    free = generate(miniature, prompts, 10)
    stop, sequence = free[0][2], free[1][4:6]
    expected = []
    for row in free:
        ends = [
            place + 1 for place in range(10) if row[place] == stop or row[max(0, place - 1) : place + 1] == sequence
        ]
        expected.append(row[: min(ends, default=10)])
    passes = forward_passes(miniature)
    rows = generate_sequences(miniature, prompts, 10, stop_tokens={stop}, stop_sequences=[sequence])
    assert [row.tokens for row in rows] == expected
    for row in rows:
        assert row.finish is (FinishReason.LENGTH if len(row.tokens) == 10 else FinishReason.STOP)
    # Two passes read the prompts (to the shortest one's end, and on); then every row's tokens but its last are read.
    lengths = [len(row) for row in expected]
    assert passes == [3, 2, *(sum(length > step for length in lengths) for step in range(1, max(lengths)))]


def test_stop_when_sees_what_was_written(miniature: HybridLM) -> None:
    free = generate(miniature, PROMPT, 10)[0]
    seen: list[list[int]] = []

    def third(tokens: list[int]) -> bool:
        seen.append(list(tokens))
        return len(tokens) == 3

    (*_, last) = stream_requests(miniature, [GenerationRequest(PROMPT, 10, stop_when=third)])
    assert last.finish is FinishReason.STOP
    assert seen == [free[:1], free[:2], free[:3]]


def test_rows_wait_for_their_turn(miniature: HybridLM) -> None:
    prompts = [PROMPT[: 5 + row] for row in range(5)]
    most = [7, 2, 5, 3, 4]
    passes = forward_passes(miniature)
    by_two = generate_sequences(miniature, prompts, most, rows_at_once=2)
    assert max(passes) == 2
    assert [row.tokens for row in by_two] == generate(miniature, prompts, most)


def test_a_cache_carries_the_conversation_on(trained: HybridLM, prompt_of: PromptOf) -> None:
    prompts = [prompt_of(0, 30), prompt_of(100, 12)]
    cache = trained.new_cache()
    first = generate(trained, prompts, [1, 4], cache=cache)
    assert cache.lengths == [30, 15]
    assert cache.tokens(1) == prompts[1] + first[1][:-1]
    second = generate(trained, [row[-1:] for row in first], 5, cache=cache)
    expected = [generate(trained, prompt, most)[0] for prompt, most in zip(prompts, (6, 9), strict=True)]
    assert [before + after for before, after in zip(first, second, strict=True)] == expected


def test_closing_a_stream_ends_the_work_and_leaves_the_cache_whole(miniature: HybridLM) -> None:
    cache = miniature.new_cache()
    steps = stream(miniature, [PROMPT, PROMPT[:9]], 100, cache=cache)
    taken = list(itertools.islice(steps, 6))
    passes = forward_passes(miniature)
    steps.close()
    assert passes == []
    assert cache.lengths == [32, 11]
    assert cache.tokens(0) == PROMPT + [new.token for new in taken if new.row == 0][:-1]


def test_cancelling_keeps_what_was_written(miniature: HybridLM) -> None:
    asked = itertools.count()
    rows = generate_sequences(miniature, [PROMPT, PROMPT], 50, cancel=lambda: next(asked) >= 5)
    # Asked once before the prompt, then before every step.
    assert [(len(row.tokens), row.finish) for row in rows] == [(4, FinishReason.CANCELLED)] * 2
    rows = generate_sequences(miniature, PROMPT, 50, cancel=after_seconds(-1))
    assert rows[0].tokens == [] and rows[0].finish is FinishReason.CANCELLED
    assert not after_seconds(1000)()


def test_progress_counts_the_tokens_of_all_prompts(miniature: HybridLM) -> None:
    reports: list[tuple[int, int]] = []
    prompts = [PROMPT, PROMPT[:4], PROMPT[:9]]
    generate_sequences(miniature, prompts, 2, progress=lambda *report: reports.append(report), rows_at_once=2)
    assert [total for _, total in reports] == [43] * len(reports)
    assert [read for read, _ in reports] == [8, 34, 43]


def test_no_new_tokens_asked_for(miniature: HybridLM) -> None:
    assert generate(miniature, [PROMPT, PROMPT], 0) == [[], []]
    assert [len(row) for row in generate(miniature, [PROMPT, PROMPT], [0, 2])] == [0, 2]


def test_a_damaged_model_is_named(miniature: HybridLM) -> None:
    with torch.no_grad():
        miniature.lm_head.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not finite: its weights are damaged"):
        generate(miniature, PROMPT, 1)


@pytest.mark.parametrize(
    ("prompts", "new_tokens", "message"),
    [
        ([[1, 2], []], 5, "empty prompt"),
        ([], 5, "empty prompt"),
        ([[1, 2], 3], 5, "mix token ids and sequences"),
        ([[1, 2], [3]], [5], "1 values of maximum_new_tokens for 2 prompts"),
        ([1, 2, 3], 5000, "prompt and new tokens make 5003, over the model's maximum_context of 2048"),
        ([[1], [1] * 2000], 100, "make 2100, over"),
        (torch.zeros(1, 1, 1, dtype=torch.long), 5, "3 dimensions"),
    ],
)
def test_impossible_requests_are_refused(
    miniature: HybridLM, prompts: list[int], new_tokens: int, message: str
) -> None:
    passes = forward_passes(miniature)
    with pytest.raises(GenerationError, match=message):
        generate(miniature, prompts, new_tokens)
    assert passes == []
