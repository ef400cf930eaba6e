"""The documents of a download artifact, whatever its shards are called."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from infra.artifacts import Artifact


def document_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """All documents, in the order of the shards' names."""
    names = sorted(entry.path for entry in artifact.manifest.files if entry.path.startswith("documents/"))
    return [row for name in names for row in pq.read_table(artifact.path(name)).to_pylist()]
