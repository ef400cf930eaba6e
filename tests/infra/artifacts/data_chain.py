"""The four data stages in order, on any artifact root: for tests, and as a program that a test can kill.

python tests/infra/artifacts/data_chain.py ROOT CACHE SOURCE WORKERS
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import orjson

from infra.artifacts import Artifact, ArtifactStore, BuildOutcome, build_stage
from tasks import deduplication, download, quality, tokenization

FILES = 4


_SENTENCES = (
    "The old {} stood at the end of the road, and nobody had lived in it for almost twenty years.",
    "Every morning she walked down to the {} with a basket in her hand and a song in her head.",
    "It is not easy to say what they found near the {}, because the letters were lost in the fire.",
    "When the train arrived, most of the passengers were asleep and dreamed of a {} by the sea.",
    "People have argued about the {} for many decades without reaching any kind of agreement on it.",
    "The town that we see today was built over the ruins of a much older {}, house by house.",
    "He would often stop in front of the {} and look at the ships that came into the harbour.",
    "Nothing about the decision to sell the {} was simple, and those who made it never spoke of it.",
    "My grandmother used to tell us that a {} is worth more than all the gold in the king's house.",
    "In the winter the {} was covered with snow, and the children were not allowed to go near it.",
    "They had been told to wait beside the {}, but after an hour it was clear that no one would come.",
    "If you follow the river for a day you will come to a {} that is not on any map of the country.",
    "She wrote a long letter about the {} to her brother, who had left for the city in the spring.",
    "There was a time when every family in the village had a {} of its own and was proud of it.",
)
_NOUNS = (
    "lighthouse", "garden", "bridge", "market", "mill", "church", "orchard", "library", "school", "fountain", "tower",
    "castle", "farm", "kitchen", "station", "forest", "island", "museum", "bakery", "stable", "cottage", "meadow",
)  # fmt: skip


def prose(number: int) -> str:
    """A page of English that the default filters keep."""
    generator = random.Random(number)
    return "\n".join(sentence.format(generator.choice(_NOUNS)) for sentence in generator.sample(_SENTENCES, 9))


def corpus_files() -> dict[str, bytes]:
    """JSONL files of prose, with some exact and near-duplicates, a short text and a broken line."""
    texts = [prose(number) for number in range(600)]
    texts += texts[:20] + [f"{text}\nAnd that was all." for text in texts[20:40]] + ["short"]
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
            shard_bytes=60_000,
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
