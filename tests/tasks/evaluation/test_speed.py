"""Speed through the contract: what is timed is what it says, also when a model ends its texts early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from small_artifacts import END_OF_TEXT

from infra.artifacts import Artifact, ArtifactStore
from model import GenerationError
from model.interface import Completion, GenerationSettings, ModelInterface, TextPiece
from tasks.evaluation import speed as speed_module
from tasks.evaluation.config import SpeedConfig
from tasks.evaluation.inputs import open_inputs
from tasks.evaluation.speed import measure_speed

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]
PREFILL_SECONDS, STEP_SECONDS = 3.0, 0.25


class Clock:
    """Time that passes only when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Timed:
    """A runtime with known times: two pieces of prefill, then steps; it ends greedy texts after `greedy_tokens`."""

    separator = END_OF_TEXT

    def __init__(self, clock: Clock, greedy_tokens: int, *, asks_at_the_end: bool, hot_tokens: int = 99) -> None:
        self.clock, self.asks_at_the_end = clock, asks_at_the_end
        self.greedy_tokens, self.hot_tokens = greedy_tokens, hot_tokens
        self.prompts: list[Sequence[int]] = []

    def info(self) -> Any:
        return type("Info", (), {"vocabulary_size": 50, "maximum_context": 64})

    def generate(self, prompts: Sequence[Sequence[int]], settings: GenerationSettings) -> list[Completion]:
        count = self._count(settings)
        return [Completion(text="", prompt_tokens=len(prompts[0]), new_tokens=count, finished=False)]

    def stream_batch(
        self, prompts: Sequence[Sequence[int]], settings: GenerationSettings, cancel: Callable[[], bool]
    ) -> Iterator[TextPiece]:
        self.prompts.append(prompts[0])
        for _ in range(2):
            cancel()
            self.clock.now += PREFILL_SECONDS / 2
        for number in range(self._count(settings)):
            cancel()
            self.clock.now += STEP_SECONDS if number else 0.0
            yield TextPiece(0, "")
        if self.asks_at_the_end:
            cancel()

    def _count(self, settings: GenerationSettings) -> int:
        limit = self.greedy_tokens if settings.sampling.temperature == 0 else self.hot_tokens
        return min(limit, settings.maximum_new_tokens)


CONFIG = SpeedConfig(decode_tokens=8, repetitions=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed_module, "time", clock)
    return clock


@pytest.mark.parametrize("asks_at_the_end", [False, True])
@pytest.mark.parametrize(("greedy_tokens", "timed"), [(99, 8), (6, 4)])
def test_times_are_those_of_whole_steps(clock: Clock, greedy_tokens: int, timed: int, asks_at_the_end: bool) -> None:
    model: Any = Timed(clock, greedy_tokens, asks_at_the_end=asks_at_the_end, hot_tokens=greedy_tokens)
    speed = measure_speed(model, CONFIG, context=40)
    assert speed.prefill_tokens == 40
    assert speed.prefill_tokens_per_second == pytest.approx(40 / PREFILL_SECONDS)
    assert speed.decode_tokens == timed
    assert speed.decode_tokens_per_second == pytest.approx(1 / STEP_SECONDS)


def test_a_model_that_ends_greedy_texts_at_once_is_sampled(clock: Clock) -> None:
    model: Any = Timed(clock, 1, asks_at_the_end=False)
    assert measure_speed(model, CONFIG, context=40).decode_tokens == 8
    with pytest.raises(GenerationError, match="ends every text"):
        measure_speed(Timed(clock, 1, asks_at_the_end=False, hot_tokens=2), CONFIG, context=40)  # type: ignore[arg-type]


def test_prompts_are_fixed_have_no_separator_and_leave_room(clock: Clock) -> None:
    models: list[Any] = [Timed(clock, 99, asks_at_the_end=False) for _ in range(2)]
    for model in models:
        assert measure_speed(model, CONFIG, context=64).prefill_tokens == 64 - 8 - 2
    assert models[0].prompts == models[1].prompts
    assert END_OF_TEXT not in models[0].prompts[0]
    assert max(models[0].prompts[0]) < 50
    with pytest.raises(GenerationError, match=r"decode_tokens.*64"):
        measure_speed(models[0], SpeedConfig(decode_tokens=62), context=64)


def test_a_real_model_is_measured(artifacts: Artifacts) -> None:
    model: ModelInterface = open_inputs(artifacts[1]).interface
    speed = measure_speed(model, SpeedConfig(decode_tokens=4, repetitions=1), 64)
    assert speed.prefill_tokens == 64
    assert 1 <= speed.decode_tokens <= 4
    assert speed.prefill_tokens_per_second > speed.decode_tokens_per_second > 0
