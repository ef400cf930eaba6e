"""A small mixed corpus as a raw_documents artifact."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from tasks.documents import DOCUMENTS, Document, documents_table, write_table

SENTENCES = (
    "The old lighthouse stood at the end of the road and nobody had lived in it for twenty years.",
    "Every morning the keeper of the garden walked down to the river with a basket in her hand.",
    "It is not easy to say what they found there, because the letters were lost in the fire.",
    "When the train arrived, most of the passengers were asleep and had to be woken by the guard.",
    "Scientists have argued about this question for decades without reaching any agreement on it.",
    "The city that we see today was built over the ruins of a much older town, house by house.",
    "He would often stop in front of the window and look at the ships that came into the harbour.",
    "Nothing about the decision was simple, and those who made it never spoke of it in public.",
)


def prose(number: int) -> str:
    """A page of varied English sentences."""
    generator = random.Random(number)
    chosen = generator.sample(SENTENCES, 7)
    return "\n".join(line.replace(" the ", f" the {generator.randrange(100, 1000)}th ", 1) for line in chosen)


#: Melville, Moby-Dick (1851), chapters 32 and 40, abridged: words that lists of profanity hold.
WHALES = """
The Sperm Whale, scientific or poetic, lives not complete in any literature. Far above all other hunted whales, his is
an unwritten life. Now the various species of whales need some sort of popular comprehensive classification, if only an
easy outline one for the present, hereafter to be filled in all its departments by subsequent laborers. As no better man
advances to take this matter in hand, I hereupon offer my own poor endeavors. I promise nothing complete; because any
human thing supposed to be complete, must for that very reason infallibly be faulty. I shall not pretend to a minute
anatomical description of the various species, or to much of any description. My object here is simply to project the
draught of a systematization of cetology. I am the architect, not the builder. There go the cocks of the ship, and the
cock crew at dawn when Moby Dick was seen by the men who stood on the mast. "Where away?" cried the captain to them.
"""


class CorpusConfig(StageConfig):
    seed: int = 0
    shards: int = 4
    documents: int = 60
    copies: int = 0
    second_source: bool = False
    literature: bool = False

    def source_of(self, number: int) -> str:
        return "other" if self.second_source and number % 2 else "mine"


def write_corpus(context: StageContext[CorpusConfig]) -> StageResult:
    config = context.config
    texts = [prose(number + 10_000 * config.seed) for number in range(config.documents)]
    texts += ["short", "Bonjour " * 40, "buy now act now order now risk free " * 10 + prose(1)]
    texts += [
        f"Write to jane.doe{number}@mail.example or 212-555-0{number:03d}.\n" + prose(number) for number in range(8)
    ]
    texts += [prose(number + 500) for number in range(config.copies)] * 2
    texts += [WHALES, prose(77) + "\nWell shit, he said, what the fuck is it, you dickhead."] * config.literature
    each = -(-len(texts) // config.shards)
    for shard in range(config.shards):
        rows = texts[shard * each : (shard + 1) * each]
        documents = [
            Document(text, config.source_of(shard * each + row), str(shard * each + row), "CC0")
            for row, text in enumerate(rows)
        ]
        write_table(context.directory / DOCUMENTS / f"mine-{shard:05d}.parquet", documents_table(documents))
    return StageResult()


CORPUS = Stage("corpus", "raw_documents", 1, CorpusConfig, write_corpus)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


@pytest.fixture
def corpus(store: ArtifactStore) -> Callable[..., Artifact]:
    def build(**settings: int) -> Artifact:
        return build_stage(CORPUS, CorpusConfig(**settings), {}, store).artifact

    return build
