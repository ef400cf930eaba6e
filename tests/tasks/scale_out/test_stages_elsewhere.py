"""The data stages on Ray with two workers: every artifact is the one that this machine's own processes make."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the `scale` extra is not installed")

from tasks.scale_out import ExecutionConfig, Executor
from tests.tasks.killing_chain import run_chain, write_texts


@pytest.mark.slow
def test_two_ray_workers_make_the_same_artifacts(tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    write_texts(source)
    expected = run_chain(source, tmp_path / "processes")
    on_ray = ExecutionConfig(executor=Executor.RAY, units_per_task=32)
    assert run_chain(source, tmp_path / "ray", where={"workers": 2, "execution": on_ray}) == expected
