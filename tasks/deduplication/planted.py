"""A test inside every run: near-duplicates of known similarity go through the same code as the documents.

Precision is near one by construction, since candidates are verified; recall is what LSH may lose. The truth
comes from Python sets of word tuples, independent of the code under test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.storage.local import atomic_file
from tasks.deduplication.arrow_arrays import to_arrow
from tasks.deduplication.corpus import Corpus
from tasks.deduplication.in_memory import find_duplicates
from tasks.deduplication.index import SketchFile
from tasks.deduplication.pairs import pack
from tasks.deduplication.sketch import SketchSettings
from tasks.sharded_work import UnitOutput
from tasks.text.batch import TextBatch

_WORD = re.compile(r"\w+")
_MINIMUM_WORDS = 50
_MAXIMUM_CHARACTERS = 8_000


@dataclass(frozen=True)
class PlantedResult:
    """How the planted pairs were decided. Without pairs on a side the figure is 1.

    precision: share of the pairs verified as duplicates that are; recall: share of the true ones whose texts
    end in one cluster.
    """

    pairs: int
    true_pairs: int
    precision: float
    recall: float


@dataclass(frozen=True)
class PlantedUnit:
    """Plant copies of the documents with the lowest ids: a random sample, since ids are hashes, and the same
    for any sharding. `documents`: the files it reads, which say how long it takes."""

    corpus: Corpus
    settings: SketchSettings
    threshold: float
    small_bucket: int
    pairs: int
    seed: int
    documents: tuple[Path, ...]
    output: Path

    def run(self) -> UnitOutput:
        """Write the result as JSON."""
        rows = self._sample()
        texts = self.corpus.texts(rows)
        result = measure_planted(
            [texts[row] for row in rows], self.settings, self.threshold, self.small_bucket, self.seed
        )
        with atomic_file(self.output) as stream:
            stream.write(orjson.dumps(asdict(result)))
        return UnitOutput((self.output,), asdict(result))

    def _sample(self) -> list[int]:
        """Rows with the lowest ids, in their order."""
        lowest = pa.schema([("id", pa.string()), ("content", pa.uint64()), ("row", pa.int64())]).empty_table()
        for shard in self.corpus.own:
            sketch = SketchFile(shard.sketch)
            rows = to_arrow(np.arange(shard.first_row, shard.first_row + shard.rows))
            part = pa.table({"id": sketch.ids, "content": to_arrow(sketch.content_high), "row": rows})
            both = pa.concat_tables([lowest, part])
            order = [("id", "ascending"), ("content", "ascending")]
            lowest = both.take(pc.select_k_unstable(both, min(self.pairs, both.num_rows), order))
        chosen: list[int] = lowest.column("row").to_pylist()
        return chosen


def measure_planted(
    texts: Sequence[str], settings: SketchSettings, threshold: float, small_bucket: int, seed: int
) -> PlantedResult:
    """Make one edited copy of each text, deduplicate all together, and compare what was found with the truth."""
    generator = random.Random(seed)  # noqa: S311 - repeatable on purpose
    usable = [text[:_MAXIMUM_CHARACTERS] for text in texts if len(text.split()) >= _MINIMUM_WORDS]
    copies = [edited_copy(text, generator) for text in usable]
    truth = np.array(
        [word_set_similarity(a, b, settings.ngram_words) >= threshold for a, b in zip(usable, copies, strict=True)],
        np.bool_,
    )
    found = find_duplicates(TextBatch.from_texts([*usable, *copies]), settings, threshold, small_bucket)
    equal, others_equal = found.equal[: len(usable)], found.equal[len(usable) :]
    verified = np.isin(pack(equal, others_equal), found.links.pairs) | (equal == others_equal)
    together = found.keeper[: len(usable)] == found.keeper[len(usable) :]
    return PlantedResult(
        pairs=len(usable),
        true_pairs=int(truth.sum()),
        precision=float((verified & truth).sum() / verified.sum()) if verified.any() else 1.0,
        recall=float((together & truth).sum() / truth.sum()) if truth.any() else 1.0,
    )


def edited_copy(text: str, generator: random.Random) -> str:
    """A copy with words replaced, left out or put in, a block cut out, or the end cut off or continued."""
    words = text.split(" ")
    edit = generator.choice((_replace, _leave_out, _put_in, _cut, _truncate, _continue))
    return " ".join(edit(words, generator.random(), generator))


def _spots(words: Sequence[str], amount: float, generator: random.Random) -> set[int]:
    # One edited word touches five shingles, so a twelfth of the words is already a lot.
    count = max(1, int(0.08 * amount * len(words)))
    return {generator.randrange(len(words)) for _ in range(count)}


def _replace(words: list[str], amount: float, generator: random.Random) -> list[str]:
    spots = _spots(words, amount, generator)
    return [_word(generator) if place in spots else word for place, word in enumerate(words)]


def _leave_out(words: list[str], amount: float, generator: random.Random) -> list[str]:
    spots = _spots(words, amount, generator)
    return [word for place, word in enumerate(words) if place not in spots]


def _put_in(words: list[str], amount: float, generator: random.Random) -> list[str]:
    spots = _spots(words, amount, generator)
    return [
        part for place, word in enumerate(words) for part in ([_word(generator)] if place in spots else []) + [word]
    ]


def _cut(words: list[str], amount: float, generator: random.Random) -> list[str]:
    size = int(0.45 * amount * len(words))
    start = generator.randrange(max(1, len(words) - size))
    return words[:start] + words[start + size :]


def _truncate(words: list[str], amount: float, generator: random.Random) -> list[str]:
    return words[: len(words) - int(0.45 * amount * len(words))]


def _continue(words: list[str], amount: float, generator: random.Random) -> list[str]:
    return words + [_word(generator) for _ in range(int(0.8 * amount * len(words)))]


def _word(generator: random.Random) -> str:
    return f"edit{generator.randrange(10**6)}"


def word_set_similarity(first: str, second: str, ngram_words: int) -> float:
    """Jaccard similarity from Python sets of word tuples: independent of the code under test."""
    sets = []
    for text in (first, second):
        words = _WORD.findall(text.lower())
        grams = {tuple(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1)}
        sets.append(grams or {tuple(words)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
