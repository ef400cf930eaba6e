"""Runs the data stages in children that are killed at random moments, until the wanted number of kills is reached.

    python killing_chain.py DIRECTORY KILLS SEED

Prints one JSON object: content checksums of an undisturbed run, those of every disturbed one, and how
many kills fell into each stage. Children are forked from a process that has everything loaded, so
that a kill costs no start-up.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from infra.artifacts import ArtifactStore, build_stage
from infra.storage.local import atomic_file
from tasks.deduplication import STAGE as DEDUPLICATION
from tasks.deduplication import DeduplicationConfig
from tasks.download import STAGE as DOWNLOAD
from tasks.download import DownloadConfig
from tasks.quality import STAGE as QUALITY
from tasks.quality import QualityConfig
from tasks.tokenization import STAGE as TOKENIZATION
from tasks.tokenization import TokenizationConfig

WORDS = (
    "the of and to in that have with a it is was for on are as at be this from or an by which one had not but what "
    "all were when we there can said use each she do how their if will up other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my than first "
    "water been call who oil its now find long down day did get come made may part house river letter garden window"
)


def write_texts(path: Path) -> None:
    """Prose-like documents, exact and near copies, short ones, personal data and broken lines."""
    generator, words = random.Random(5), WORDS.split()
    texts: list[str] = []
    for number in range(700):
        sentences = [" ".join(generator.choices(words, k=generator.randrange(8, 16))) for _ in range(20)]
        texts.append("\n".join(f"{sentence.capitalize()}." for sentence in sentences))
        if number % 5 == 0:
            texts.append(texts[number].replace("the", "that", 1))
        if number % 9 == 0:
            texts.append(texts[-1])
    texts += ["short", f"Write to jane.doe@mail.example today.\n{texts[3]}"]
    lines = [json.dumps({"text": text}) for text in texts]
    lines.insert(40, '{"text": "cut of')
    path.write_text("\n".join(lines))


def run_chain(
    source: Path, root: Path, stage_file: Path | None = None, where: dict[str, Any] | None = None
) -> list[str]:
    """Build all four artifacts; `stage_file` is told which stage is at work. Returns their content checksums.

    `where`: the workers and execution of all stages; one worker in this process unless given.
    """
    where = where or {"workers": 1}
    store = ArtifactStore.open(str(root), root)
    download = DownloadConfig(
        sources=({"name": "mine", "uri": str(source)},),  # type: ignore[arg-type]
        shard_bytes=60_000,
        cache_directory=root / "cache",
        **where,
    )
    tokenization = TokenizationConfig(
        vocabulary_size=400, training_sample_bytes=200_000, minimum_validation_documents=4, **where
    )
    chain = [
        (DOWNLOAD, download),
        (QUALITY, QualityConfig(default_settings={"minimum_language_probability": 0.1}, **where)),  # type: ignore[arg-type]
        (DEDUPLICATION, DeduplicationConfig(planted_pairs=20, **where)),
        (TOKENIZATION, tokenization),
    ]
    checksums = []
    inputs = {}
    for stage, config in chain:
        if stage_file is not None:
            with atomic_file(stage_file) as stream:
                stream.write(stage.name.encode())
        artifact = build_stage(stage, config, inputs, store).artifact  # type: ignore[arg-type]
        inputs = {"documents": artifact}
        checksums.append(artifact.manifest.content_checksum)
    return checksums


def killed_after(seconds: float, source: Path, root: Path, stage_file: Path) -> bool:
    """Run the chain in a child for at most so long; whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_chain(source, root, stage_file)
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status != 0:
                raise RuntimeError(f"the chain failed by itself: status {status}")
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    directory, wanted, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    source = directory / "texts.jsonl"
    write_texts(source)
    run_chain(source, directory / "warm")  # loads and compiles everything
    started = time.monotonic()
    expected = run_chain(source, directory / "calm")
    whole = time.monotonic() - started
    generator = random.Random(seed)
    kills: dict[str, int] = {}
    disturbed: list[list[str]] = []
    stage_file = directory / "stage"
    while sum(kills.values()) < wanted or len(kills) < len(expected):  # and one in each stage
        root = directory / f"disturbed-{len(disturbed)}"
        while killed_after(generator.uniform(0.01, 0.25 * whole), source, root, stage_file):
            stage = stage_file.read_text()
            kills[stage] = kills.get(stage, 0) + 1
        disturbed.append(run_chain(source, root))
    print(json.dumps({"expected": expected, "disturbed": disturbed, "kills": kills, "seconds": whole}))


if __name__ == "__main__":
    main()
