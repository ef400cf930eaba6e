"""A small project with stub flows, so that the stack is tested without the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.stack.settings import source_directory

STUB_FLOW = """
import time

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact


@task
def train(steps: int, seconds: float) -> int:
    artifact = create_progress_artifact(progress=0.0, key="train", description="training")
    for step in range(steps):
        get_run_logger().info("step %d", step)
        time.sleep(seconds)
        update_progress_artifact(artifact, progress=100 * (step + 1) / steps)
    return steps


@flow(name="sam2-full-pipeline")
def full_pipeline(profile: str = "smoke", overrides: dict | None = None) -> int:
    chosen = overrides or {}
    # `sam2 run` lets only fields of the real configuration through: the description says what to do.
    if chosen.get("description") == "fail":
        raise RuntimeError("asked to fail")
    steps = 3 if chosen.get("description") == "three steps" else 2
    return train(chosen.get("steps", steps), chosen.get("seconds", 0.1))
"""

STUB_FINETUNE = """
from prefect import flow


@flow(name="sam2-finetune")
def finetune(profile: str = "chat", overrides: dict | None = None) -> str:
    return profile
"""


STUB_BUDGET_PLAN = """
from prefect import flow


@flow(name="sam2-budget-plan")
def budget_plan(profile: str = "smoke", overrides: dict | None = None) -> str:
    return profile
"""


def make_project(directory: Path) -> Path:
    """A project folder with the real `prefect.yaml` and the stub flows."""
    (directory / "flows").mkdir(parents=True)
    (directory / "flows" / "full_pipeline.py").write_text(STUB_FLOW)
    (directory / "flows" / "finetune.py").write_text(STUB_FINETUNE)
    (directory / "flows" / "budget_plan.py").write_text(STUB_BUDGET_PLAN)
    (directory / "prefect.yaml").write_text((source_directory() / "prefect.yaml").read_text())
    # As in the real project: this is what makes Prefect's command line load the plugin.
    (directory / "pyproject.toml").write_text('[tool.prefect.plugins]\nenabled = true\nallow = ["sam2"]\n')
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")
