"""The four data stages in order, on any artifact root: for tests, and as a program that a test can kill.

python tests/infra/artifacts/data_chain.py ROOT CACHE SOURCE WORKERS
"""

from __future__ import annotations

import pydoc_data.topics
import re
import sys
from pathlib import Path

import orjson

from infra.artifacts import Artifact, ArtifactStore, BuildOutcome, build_stage
from tasks import deduplication, download, quality, tokenization

FILES = 4


def corpus_files() -> dict[str, bytes]:
    """JSONL files of real English prose, with some exact and near-duplicates and a broken line."""
    texts = []
    for topic in sorted(pydoc_data.topics.topics):
        parts = re.split(r"\n(?=[A-Z][^\n]+\n[=~*-]{4,}\n)", pydoc_data.topics.topics[topic])
        texts += [" ".join(part.split()) for part in parts if len(part) > 300]
    texts += texts[:20] + [f"{text} And one more thing." for text in texts[20:40]]
    lines = [orjson.dumps({"text": text}) + b"\n" for text in texts] + [b"{broken\n"]
    return {f"part-{number}.jsonl": b"".join(lines[number::FILES]) for number in range(FILES)}


def run_chain(root: str, cache: Path, source: str, workers: int = 1) -> list[BuildOutcome]:
    """Build download, quality, deduplication and tokenization; the outcomes in that order."""
    store = ArtifactStore.open(root, cache / "artifacts")
    found = download.resolve_sources(
        download.DownloadConfig(
            sources=[
                {"name": f"docs-{number}", "uri": source, "include": [f"*part-{number}*"]} for number in range(FILES)
            ],  # type: ignore[arg-type]
            cache_directory=cache / "downloads",
            shard_bytes=100_000,
            workers=workers,
        )
    )
    outcomes = [build_stage(download.STAGE, found, {}, store)]
    stages = [
        (quality.STAGE, quality.QualityConfig(workers=workers)),
        (deduplication.STAGE, deduplication.DeduplicationConfig(workers=workers)),
        (
            tokenization.STAGE,
            tokenization.TokenizationConfig(vocabulary_size=600, minimum_validation_documents=5, workers=workers),
        ),
    ]
    for stage, config in stages:
        before: Artifact = outcomes[-1].artifact
        outcomes.append(build_stage(stage, config, {"documents": before}, store))
    return outcomes


def checksums(outcomes: list[BuildOutcome]) -> list[str]:
    """What the artifacts hold, whatever built them."""
    return [outcome.artifact.manifest.content_checksum for outcome in outcomes]


if __name__ == "__main__":
    run_chain(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
