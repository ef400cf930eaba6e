"""A stage whose artifacts live in a bucket: what one machine began, another with an empty disk goes on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import boto3
import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from tasks.training import STAGE
from tasks.training.job import TrainingJob
from tests.infra.conftest import moto_bucket, moto_endpoint  # noqa: F401 (fixtures)
from tests.tasks.training.conftest import stage_config
from tests.tasks.training.test_stage import same_results


class PowerCut(Exception):
    """The end of a machine."""


def test_a_lost_machine_s_training_goes_on_elsewhere(
    here: Callable[[TrainingJob], int],
    tokens: Artifact,
    store: ArtifactStore,
    moto_bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = stage_config(checkpoint_every_fraction=0.25)
    undisturbed = build_stage(STAGE, config, {"tokens": tokens}, store).artifact
    steps: list[float] = []

    def cut(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        if metrics and metrics["step"] == 8:
            raise PowerCut

    def note(fraction: float, message: str, metrics: Mapping[str, float] | None = None) -> None:
        steps.extend([metrics["step"]] if metrics else [])

    uri = f"s3://{moto_bucket}/artifacts"
    with pytest.raises(PowerCut):
        build_stage(STAGE, config, {"tokens": tokens}, ArtifactStore.open(uri, tmp_path / "one"), report=cut)
    assert any("/.scratch/checkpoints/" in key and key.endswith("checkpoint.json") for key in keys(moto_bucket))
    shutil.rmtree(tmp_path / "one")
    other = ArtifactStore.open(uri, tmp_path / "two")
    continued = build_stage(STAGE, config, {"tokens": tokens}, other, report=note).artifact
    assert steps[0] > 1, "it did not begin anew"
    assert same_results(continued, undisturbed)
    assert not any("/.scratch/" in key for key in keys(moto_bucket)), "nothing is left but the artifact"


def keys(bucket: str) -> list[str]:
    listed = boto3.session.Session().client("s3").list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in listed.get("Contents", [])]
