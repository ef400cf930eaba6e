from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import CacheError, GenerationError, HybridLM, SamplingConfig, generate, preset, resume
from model.generation import FinishReason, GenerationRequest, RunningBatch
from tests.support.trained_models import FAMILIES, text, trained_model

PromptOf = Callable[[int, int], list[int]]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_rows_that_come_and_go_write_what_they_write_alone(family: str, data: st.DataObject) -> None:
    """Any order of joining, stepping and leaving."""
    model = trained_model(family)
    batch = RunningBatch(model)
    requests: dict[int, GenerationRequest] = {}
    written: dict[int, list[int]] = {}
    for start in range(0, 2500, 500):
        length = data.draw(st.integers(1, 40))
        sampling = SamplingConfig(seed=start, temperature=data.draw(st.sampled_from([0.0, 1.0])), top_k=30)
        request = GenerationRequest(text()[start : start + length].tolist(), data.draw(st.integers(1, 6)), sampling)
        (number,) = batch.join([request])
        requests[number], written[number] = request, []
        for _ in range(data.draw(st.integers(0, 3))):
            for new in batch.step():
                written[new.row].append(new.token)
        if batch.rows and data.draw(st.booleans()):
            batch.leave([data.draw(st.sampled_from(batch.rows))])
    while batch.rows:
        for new in batch.step():
            written[new.row].append(new.token)
    for number, request in requests.items():
        (alone,) = generate(model, list(request.prompt), request.maximum_new_tokens, request.sampling)
        assert written[number] == alone[: len(written[number])]


def test_finished_rows_leave_caches_that_can_be_reused(trained: HybridLM, prompt_of: PromptOf) -> None:
    batch = RunningBatch(trained, keep_caches=True)
    prompt = prompt_of(0, 40)
    numbers = batch.join([GenerationRequest(prompt, 5), GenerationRequest(prompt_of(300, 9), 2)])
    tokens: list[int] = []
    while batch.rows:
        tokens += [new.token for new in batch.step() if new.row == numbers[0]]
    cache = batch.take_cache(numbers[0])
    assert cache.tokens(0) == prompt + tokens[:-1]
    following = [*prompt, *tokens, *prompt_of(700, 5)]
    logits = resume(trained, following, cache)
    (number,) = batch.join_read([GenerationRequest(following, 4)], cache, logits)
    again = [new.token for _ in range(4) for new in batch.step() if new.row == number]
    assert [again] == generate(trained, following, 4)
    with pytest.raises(GenerationError, match="left no cache"):
        batch.take_cache(numbers[0])


def test_an_empty_batch_has_nothing_to_write(miniature: HybridLM) -> None:
    batch = RunningBatch(miniature)
    assert batch.step() == [] and batch.rows == []
    batch.join([GenerationRequest([1, 2], 1)])
    assert [new.finish for new in batch.step()] == [FinishReason.LENGTH]
    assert batch.step() == [] and batch.rows == []


def test_a_refused_request_leaves_the_batch_as_it_was(miniature: HybridLM) -> None:
    batch = RunningBatch(miniature)
    batch.join([GenerationRequest([1, 2], 3)])
    for bad in (GenerationRequest([1] * 2040, 9), GenerationRequest([1], 0), GenerationRequest([], 1)):
        with pytest.raises(GenerationError):
            batch.join([GenerationRequest([3], 1), bad])
    other = HybridLM(preset("miniature").changed(key_value_heads=4)).eval()
    with pytest.raises(CacheError, match="key_value_heads 4, here 2"):
        batch.join_read([GenerationRequest([1], 1)], other.new_cache(), torch.zeros(1, 256))
    tokens = [new.token for _ in range(3) for new in batch.step()]
    assert [tokens] == generate(miniature, [1, 2], 3)
