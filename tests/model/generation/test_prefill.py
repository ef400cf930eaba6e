from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import Cache, GenerationCancelled, GenerationError, HybridLM, generate, prefill, resume, rewind
from tests.support.trained_models import FAMILIES, text, trained_model

PromptOf = Callable[[int, int], list[int]]


def assert_same_contents(one: Cache, other: Cache) -> None:
    """Same tokens; keys, values and states equal to rounding."""
    assert one.lengths == other.lengths
    for row, length in enumerate(one.lengths):
        assert one.tokens(row) == other.tokens(row)
        for left, right in zip(one.layers, other.layers, strict=True):
            assert left.keys() == right.keys()
            for name in left:
                end = length if name in ("keys", "values") else None
                torch.testing.assert_close(left[name][row, :, :end], right[name][row, :, :end], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def full_logits(model: HybridLM, prompt: list[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([prompt]))[0, -1]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(splits=st.lists(st.integers(1, 139), max_size=5).map(sorted))
def test_any_segmentation_gives_the_same(family: str, splits: list[int]) -> None:
    model, tokens = trained_model(family), text()[:140].unsqueeze(0)
    whole, cut = model.new_cache(), model.new_cache()
    expected = prefill(model, tokens, whole)
    for start, end in zip([0, *splits], [*splits, 140], strict=True):
        if start < end:
            logits = prefill(model, tokens[:, start:end], cut)
    torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-4)
    assert_same_contents(cut, whole)


def test_a_ragged_batch_holds_what_each_prompt_holds_alone(trained: HybridLM, prompt_of: PromptOf) -> None:
    prompts = [prompt_of(0, 90), prompt_of(400, 2), prompt_of(800, 90), prompt_of(1200, 133), prompt_of(5, 61)]
    cache = trained.new_cache()
    logits = prefill(trained, prompts, cache, segment_tokens=64)
    assert cache.lengths == [90, 2, 90, 133, 61]
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], full_logits(trained, prompt), atol=5e-5, rtol=1e-4)
        alone = trained.new_cache()
        prefill(trained, prompt, alone)
        assert_same_contents(cache.select([row]), alone)
    # Several tokens at once behind rows of different lengths, and again of different lengths.
    more = [prompt_of(2000 + 50 * row, 3 + row) for row in range(5)]
    logits = prefill(trained, more, cache)
    for row, (before, after) in enumerate(zip(prompts, more, strict=True)):
        torch.testing.assert_close(logits[row], full_logits(trained, before + after), atol=5e-5, rtol=1e-4)


def test_segments_bound_what_goes_through_the_model(miniature: HybridLM) -> None:
    passes: list[tuple[int, ...]] = []
    miniature.register_forward_hook(lambda _module, inputs, output: passes.append((*inputs[0].shape, output.shape[1])))
    prefill(miniature, [list(range(100)) * 15] * 3, miniature.new_cache())
    assert passes == [(3, 682, 1), (3, 682, 1), (3, 136, 1)]
    passes.clear()
    prefill(miniature, list(range(100)), miniature.new_cache(), segment_tokens=40)
    assert passes == [(1, 40, 1), (1, 40, 1), (1, 20, 1)]


def test_progress_and_cancelling_between_segments(miniature: HybridLM) -> None:
    reports: list[tuple[int, int]] = []
    cache = miniature.new_cache()
    prompts = [list(range(100)), list(range(100, 130))]

    def enough() -> bool:
        return len(reports) == 3

    with pytest.raises(GenerationCancelled, match="after 80 of 130 prompt tokens"):
        prefill(miniature, prompts, cache, 20, lambda *report: reports.append(report), enough)
    assert reports == [(40, 130), (60, 130), (80, 130)]
    # What was read is whole, row by row: reading on gives what reading at once gives.
    assert cache.lengths == [50, 30]
    logits = resume(miniature, prompts, cache)
    torch.testing.assert_close(logits, prefill(miniature, prompts, miniature.new_cache()), atol=1e-5, rtol=1e-4)


def test_a_shared_beginning_is_read_once(trained: HybridLM, prompt_of: PromptOf) -> None:
    system = prompt_of(0, 80)
    shared = trained.new_cache()
    prefill(trained, system, shared)
    first = [*system, *prompt_of(300, 40)]
    read: list[int] = []
    handle = trained.register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0].shape[1]))
    cache = shared.clone()
    logits = resume(trained, first, cache)
    # Another question: back to the end of the shared beginning, where the states were copied.
    second = [*system, *prompt_of(700, 25)]
    assert cache.common_prefix(0, second) == 80
    again = resume(trained, second, cache)
    # The same question once more: only its last token is read, unless states force more.
    resume(trained, second, cache)
    handle.remove()
    assert read == [40, 25, 25]
    torch.testing.assert_close(logits[0], full_logits(trained, first), atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(again[0], full_logits(trained, second), atol=5e-5, rtol=1e-4)
    assert generate(trained, second[-1:], 5, cache=_one_back(trained, cache)) == generate(trained, second, 5)


def _one_back(model: HybridLM, cache: Cache) -> Cache:
    rewind(model, cache, cache.lengths[0] - 1)
    return cache


def test_resume_takes_each_row_as_far_back_as_it_must(miniature: HybridLM) -> None:
    rows = [list(range(50)), list(range(100, 170)), list(range(5))]
    cache = miniature.new_cache()
    prefill(miniature, rows, cache)
    prompts = [[*rows[0], 7, 8], [*rows[1][:60], 9], [200, 201]]
    passes: list[int] = []
    miniature.register_forward_hook(lambda _module, inputs, _output: passes.append(inputs[0].numel()))
    logits = resume(miniature, prompts, cache)
    assert sum(passes) == 2 + 61 + 2
    assert [cache.tokens(row) for row in range(3)] == prompts
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], full_logits(miniature, prompt), atol=1e-5, rtol=1e-4)


def test_rewind_reads_again_what_trimming_lost(trained: HybridLM, prompt_of: PromptOf) -> None:
    prompts = [prompt_of(0, 75), prompt_of(300, 40), prompt_of(600, 58)]
    cache = trained.new_cache()
    prefill(trained, prompts, cache)
    rewind(trained, cache, [33, 40, 0])
    assert [cache.tokens(row) for row in range(3)] == [prompts[0][:33], prompts[1], []]
    more = [prompt_of(900, 6)] * 3
    logits = prefill(trained, more, cache)
    for row, kept in enumerate((33, 40, 0)):
        expected = full_logits(trained, [*prompts[row][:kept], *more[row]])
        torch.testing.assert_close(logits[row], expected, atol=5e-5, rtol=1e-4)


def test_eight_thousand_tokens_far_past_the_training_length() -> None:
    """Positions 96 times past those of training: prefill and decoding equal the plain forward pass there."""
    trained = trained_model("hgrn2")
    model = HybridLM(trained.config.changed(maximum_context=8200)).eval()
    model.load_state_dict(trained.state_dict())
    tokens = text()[:8192].tolist()
    cache = model.new_cache()
    prefill(model, tokens, cache)
    new = generate(model, [text()[8192].tolist()], 4, cache=cache)[0]
    with torch.no_grad():
        logits = model.lm_head(model.hidden_states(torch.tensor([[*tokens, int(text()[8192]), *new[:3]]]))[0, -4:])
    assert new == logits.argmax(-1).tolist()
    with pytest.raises(GenerationError, match="make 8201, over the model's maximum_context of 8200"):
        generate(model, tokens, 9)


@pytest.mark.parametrize(("prompts", "segment", "message"), [([[1], []], None, "empty prompt"), ([1], 0, "at least 1")])
def test_what_cannot_be_read_is_refused(
    miniature: HybridLM, prompts: list[int], segment: int | None, message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        prefill(miniature, prompts, miniature.new_cache(), segment)
