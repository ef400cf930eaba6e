"""Artifacts and stages: the spine that makes every run resumable and every result traceable.

Public surface:
- `Stage`, `StageConfig`, `run_argument`, `added_argument`, `StageContext`, `StageResult`: what a stage is written with;
- `ArtifactStore`, `Artifact`, `Manifest`: where finished work lives;
- `build_stage`, `BuildOutcome`, `plan_fingerprint`: build an artifact once, whoever asks;
- `adopt_unfinished`: go on with unfinished work under another fingerprint.
"""

from infra.artifacts.adoption import adopt_unfinished
from infra.artifacts.builder import BuildOutcome, build_stage, plan_fingerprint
from infra.artifacts.manifest import FileEntry, Manifest
from infra.artifacts.shards import ShardMarkers
from infra.artifacts.stage import Stage, StageConfig, StageContext, StageResult, added_argument, run_argument
from infra.artifacts.store import Artifact, ArtifactStore

__all__ = [
    "Artifact",
    "ArtifactStore",
    "BuildOutcome",
    "FileEntry",
    "Manifest",
    "ShardMarkers",
    "Stage",
    "StageConfig",
    "StageContext",
    "StageResult",
    "added_argument",
    "adopt_unfinished",
    "build_stage",
    "plan_fingerprint",
    "run_argument",
]
