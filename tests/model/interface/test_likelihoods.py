"""Likelihoods of token rows and of continuations: the same from every format's own way of computing them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import GenerationError
from model.interface import Continuation, GenerationSettings, ModelFormat, ModelInterface, open_model
from model.interface.contract import log_softmax

PATHS = {ModelFormat.FLOAT32: "fp32", ModelFormat.INT4: "int4", ModelFormat.GGUF: "q8_0.gguf"}
ROWS = st.lists(st.integers(1, 511), min_size=1, max_size=30)


@pytest.fixture(scope="module", params=list(PATHS), ids=str)
def model(request: pytest.FixtureRequest, files: Path) -> ModelInterface:
    return open_model(files / PATHS[request.param])


@pytest.fixture(scope="module")
def exact(files: Path) -> ModelInterface:
    return open_model(files / "fp32")


def test_rows_are_scored_as_the_logits_say(model: ModelInterface) -> None:
    rows = [[3, 7, 9, 400, 2], [5], [8, 8], list(range(1, 200))]
    for row, scores in zip(rows, model.score_tokens(rows), strict=True):
        table = log_softmax(np.concatenate(list(model.logits(row))))
        assert table.shape == (len(row), 512)
        assert scores == pytest.approx(table[np.arange(len(row) - 1), row[1:]], abs=1e-3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contexts=st.lists(ROWS, min_size=1, max_size=4), choices=st.lists(ROWS, min_size=1, max_size=4), turn=st.booleans()
)
def test_shared_contexts_change_no_score(
    exact: ModelInterface, contexts: list[list[int]], choices: list[list[int]], turn: bool
) -> None:
    asked = [Continuation(context, choice) for context in contexts for choice in choices]
    if turn:
        asked = asked[::-1]
    together = exact.score_continuations(asked)
    plain = ModelInterface.score_continuations(exact, asked)  # the contract's own way, one after the other
    assert [score.log_likelihood for score in together] == pytest.approx(
        [one.log_likelihood for one in plain], abs=1e-3
    )
    for one, score in zip(asked, together, strict=True):
        (scores,) = exact.score_tokens([[*one.context, *one.tokens]])
        assert score.log_likelihood == pytest.approx(scores[-len(one.tokens) :].sum(), abs=1e-3)


def test_contexts_are_read_once_in_every_runtime(model: ModelInterface) -> None:
    """Choices of one and of several tokens, in any order, score as whole rows do."""
    contexts = [[0, *model.encode("the quick brown fox " * 4)], [5, 6, 7]]
    choices = [[9, 8, 7], [4], [9, 8], [9, 8, 7, 6, 5], [3]]
    asked = [Continuation(context, choice) for choice in choices for context in contexts]
    for one, score in zip(asked, model.score_continuations(asked), strict=True):
        (scores,) = model.score_tokens([[*one.context, *one.tokens]])
        assert score.log_likelihood == pytest.approx(scores[-len(one.tokens) :].sum(), abs=2e-2)


def test_what_the_model_would_write_is_greedy(model: ModelInterface) -> None:
    context = [0, *model.encode("the quick brown")]
    rows = np.concatenate(list(model.logits(context)))
    best = int(rows[-1].argmax())
    other = (best + 1) % 512
    likely, unlikely, two = model.score_continuations(
        [Continuation(context, [best]), Continuation(context, [other]), Continuation(context, [best, other])]
    )
    assert likely.greedy and not unlikely.greedy
    assert likely.log_likelihood > unlikely.log_likelihood
    assert two.log_likelihood < likely.log_likelihood


def test_small_batches_change_no_score(exact: ModelInterface, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Continuation([1 + n % 3] * (5 + n // 4), [n + 1, 2, 3][: 1 + n % 3]) for n in range(24)]
    asked += [Continuation([9] * 60, [4]), Continuation([9] * 60, [5, 6])]
    asked += [Continuation([8] * 70, [5, 6] * 30), Continuation([7], [5, 6] * 30), Continuation([6] * 39, [5])]
    at_once = exact.score_continuations(asked)
    monkeypatch.setattr("model.interface.hybrid_scoring._TOKENS_AT_ONCE", 20)
    monkeypatch.setattr("model.interface.hybrid_scoring._LOGITS_AT_ONCE", 512 * 3)
    in_parts = exact.score_continuations(asked)
    assert [one.greedy for one in in_parts] == [one.greedy for one in at_once]
    assert [one.log_likelihood for one in in_parts] == pytest.approx([one.log_likelihood for one in at_once], abs=1e-3)


def test_a_shared_context_is_read_once(files: Path) -> None:
    model = open_model(files / "fp32")
    read: list[int] = []
    model.model.embeddings.register_forward_hook(  # type: ignore[attr-defined]
        lambda _module, inputs, _output: read.append(inputs[0].numel())
    )
    model.score_continuations([Continuation([7] * 50, [choice]) for choice in range(1, 9)])
    assert read == [50]
    read.clear()
    model.score_continuations([Continuation([7] * 50, [choice, 3]) for choice in range(1, 9)])
    assert read == [50, 8]


def test_a_prompt_of_tokens_is_read_as_it_is(model: ModelInterface) -> None:
    short = GenerationSettings(maximum_new_tokens=5)
    (as_text,) = model.generate(["the quick"], short)
    (as_tokens,) = model.generate([[model.separator, *model.encode("the quick")]], short)
    assert as_text == as_tokens
    (unopened,) = model.generate([model.encode("the quick")], short)
    assert unopened.prompt_tokens == as_text.prompt_tokens - 1
    assert model.decode(model.encode("naïve 漢字")) == "naïve 漢字"


def test_what_cannot_be_scored_is_refused(exact: ModelInterface) -> None:
    for asked in (Continuation([], [1]), Continuation([1], [])):
        with pytest.raises(GenerationError, match="at least one token"):
            exact.score_continuations([asked])
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        exact.score_continuations([Continuation([1] * 1024, [1, 2])])
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        exact.score_tokens([[1] * 1026])
    with pytest.raises(GenerationError, match="maximum_context of 1024"):
        next(exact.logits([1] * 1025))
    assert exact.score_continuations([Continuation([1] * 1024, [1])])[0].log_likelihood < 0
    assert exact.score_continuations([]) == [] and exact.score_tokens([]) == []
