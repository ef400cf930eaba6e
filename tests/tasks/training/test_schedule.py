"""The learning rate is a pure function of the step."""

from __future__ import annotations

import pytest

from tasks.training.schedule import learning_rate_at
from tests.tasks.training.conftest import stage_config


def rates(steps: int = 100, **changes: object) -> list[float]:
    fields: dict = {"warmup_steps": 10, "schedule": "cosine", "peak": 1.0, "final": 0.1, "decay_fraction": 0.2}
    return [learning_rate_at(step, steps=steps, **(fields | changes)) for step in range(steps)]


def test_warmup_rises_linearly_to_the_peak() -> None:
    assert rates()[:10] == pytest.approx([0.1 * n for n in range(1, 11)])


def test_cosine_falls_from_the_peak_to_the_final_rate() -> None:
    cosine = rates()
    assert cosine[10] == 1.0
    assert cosine[-1] == pytest.approx(0.1)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert cosine[10 + 45] == pytest.approx(0.55, abs=0.02)


def test_warmup_stable_decay_falls_only_at_the_end() -> None:
    values = rates(schedule="warmup_stable_decay")
    assert set(values[9:80]) == {1.0}
    assert values[81] < 1.0
    assert values[-1] == pytest.approx(0.1)


def test_constant_stays_at_the_peak() -> None:
    assert set(rates(schedule="constant")[10:]) == {1.0}


def test_a_single_step_and_no_warmup_are_possible() -> None:
    assert rates(steps=1, warmup_steps=0) == [0.1]
    assert rates(steps=2, warmup_steps=0) == [1.0, 0.1]


def test_the_stage_derives_its_warmup_from_a_share() -> None:
    config = stage_config(warmup_steps=None, warmup_fraction=0.25)
    assert config.steps == 12
    assert config.learning_rate_at(2) == pytest.approx(3e-3)
    assert config.learning_rate_at(0) == pytest.approx(1e-3)
