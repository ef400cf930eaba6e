"""The manifest: the last file written into an artifact, and the only proof that it is finished."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra.storage.checksum import checksum_bytes

FINGERPRINT_LENGTH = 32  # hex digits of XXH3-128


class FileEntry(BaseModel):
    """One file of an artifact: path relative to its directory, size, checksum."""

    model_config = ConfigDict(frozen=True)
    path: str
    size_bytes: int
    checksum: str


class StageCost(BaseModel):
    """What the finishing attempt spent (the ledger has every attempt)."""

    model_config = ConfigDict(frozen=True)
    seconds: float = 0.0
    usd: float = 0.0


class Manifest(BaseModel):
    """Everything known of a finished artifact."""

    model_config = ConfigDict(frozen=True)
    kind: str = Field(description="what the artifact is: raw_documents, tokens, checkpoint, ...")
    fingerprint: str = Field(description="identity: hash of stage, version, config and input fingerprints")
    stage: str
    stage_version: int
    config: dict[str, Any] = Field(description="the literals that change the result")
    inputs: dict[str, str] = Field(description="input name -> 'kind/fingerprint' (lineage)")
    files: tuple[FileEntry, ...]
    statistics: dict[str, Any] = Field(default_factory=dict, description="free-form figures of the stage")
    metrics: dict[str, float] = Field(default_factory=dict, description="flat figures for MLflow")
    tables: dict[str, list[dict[str, Any]]] = Field(default_factory=dict, description="rows for people")
    cost: StageCost = StageCost()
    code_version: str = ""
    created_at: str = Field(description="UTC, ISO 8601")

    @property
    def content_checksum(self) -> str:
        """One checksum over all files' checksums: equal for equal content, whatever built it."""
        listing = [[entry.path, entry.checksum] for entry in sorted(self.files, key=lambda entry: entry.path)]
        return checksum_bytes(canonical_json(listing))

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size_bytes for entry in self.files)


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
