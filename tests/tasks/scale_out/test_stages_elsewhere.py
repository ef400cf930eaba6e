"""The data stages on Ray with two workers: every artifact is the one that this machine's own processes make."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the `scale` extra is not installed")

import ray

from tasks.scale_out import ExecutionConfig, Executor
from tests.tasks.killing_chain import run_chain, write_texts


@pytest.fixture
def running_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One Ray for all stages, which use the one that runs; test_execution.py has a stage start and end its own."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
def test_two_ray_workers_make_the_same_artifacts(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    write_texts(source)
    expected = run_chain(source, tmp_path / "processes")
    on_ray = ExecutionConfig(executor=Executor.RAY, units_per_task=32)
    assert run_chain(source, tmp_path / "ray", where={"workers": 2, "execution": on_ray}) == expected
    assert ray.is_initialized(), "a stage ends only a Ray that it started"
