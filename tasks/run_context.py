"""What every task of one pipeline run shares: where things live, who pays, who watches."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Artifact, ArtifactStore
from infra.budget import ComputePrice, Ledger
from infra.errors import ArtifactCorrupted
from infra.tracking import PipelineTracker


class RunContext(BaseModel):
    """Small and serialisable, so that Prefect can show and keep it."""

    model_config = ConfigDict(frozen=True)
    flow_run_id: str
    run_name: str
    profile: str
    home: Path = Field(description="SAM2_HOME: servers, ledger, runs, caches")
    artifact_root: str = Field(description="local directory or s3://bucket/prefix")
    tracking_uri: str
    experiment: str
    price: ComputePrice

    def store(self) -> ArtifactStore:
        """The artifact store of this run."""
        return ArtifactStore.open(self.artifact_root, self.home / "artifact-cache")

    def ledger(self) -> Ledger:
        """The one ledger of this home."""
        return Ledger(self.home / "ledger.jsonl")

    def tracker(self) -> PipelineTracker:
        """This run's parent in MLflow, created on first use."""
        tags = {"sam2.profile": self.profile, "sam2.provider": self.price.provider}
        return PipelineTracker(self.tracking_uri, self.experiment, self.flow_run_id, self.run_name, tags)

    @property
    def run_directory(self) -> Path:
        """Where the run's summary and report are written."""
        return self.home / "runs" / self.flow_run_id


class ArtifactReference(BaseModel):
    """A finished artifact as tasks hand it on: by name, never by content."""

    model_config = ConfigDict(frozen=True)
    kind: str
    fingerprint: str
    uri: str
    reused: bool
    seconds: float = Field(description="seconds this run spent on it")
    usd: float = Field(description="dollars this run spent on it")

    def open(self, store: ArtifactStore) -> Artifact:
        """The artifact with its files on this machine; raises ArtifactCorrupted when it is gone."""
        artifact = store.find(self.kind, self.fingerprint, verify=False)
        if artifact is None:
            raise ArtifactCorrupted(f"artifact '{self.uri}' has disappeared.", "run the pipeline again: it is rebuilt.")
        return artifact
