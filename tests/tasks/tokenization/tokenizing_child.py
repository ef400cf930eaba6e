"""Builds a tokens artifact with two workers; the kill test ends it at random moments.

    python tokenizing_child.py DIRECTORY STORE WORKERS

Prints the content checksum. The documents are made once, as an artifact in DIRECTORY.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from tasks.documents import DOCUMENTS, Document, documents_table, write_table
from tasks.tokenization import STAGE, TokenizationConfig

SHARDS, DOCUMENTS_A_SHARD = 24, 60


def write_documents(context: StageContext[StageConfig]) -> StageResult:
    generator = random.Random(3)
    words = [f"{generator.choice('bdfgklmnprst')}{generator.choice('aeiou')}{number:x}" for number in range(4000)]
    for shard in range(SHARDS):
        rows = [
            Document(" ".join(generator.choices(words, k=300)), f"source-{row % 3}", f"{shard}/{row}", "CC0")
            for row in range(DOCUMENTS_A_SHARD)
        ]
        write_table(context.directory / DOCUMENTS / f"made-{shard:05d}.parquet", documents_table(rows))
    return StageResult()


def documents(directory: Path) -> Artifact:
    store = ArtifactStore.open(str(directory), directory / "cache")
    return build_stage(
        Stage("made", "raw_documents", 1, StageConfig, write_documents), StageConfig(), {}, store
    ).artifact


def main(directory: Path, root: Path, workers: int) -> None:
    config = TokenizationConfig(
        vocabulary_size=1500, training_sample_bytes=1 << 20, minimum_validation_documents=8, workers=workers
    )
    store = ArtifactStore.open(str(root), root / "cache")
    print(build_stage(STAGE, config, {"documents": documents(directory)}, store).artifact.manifest.content_checksum)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
