"""Near-duplicate detection against datatrove, rensa and datasketch: speed and accuracy on the same documents.

    python benchmarks/deduplication.py [--megabytes 220] [--peer-megabytes 12] [--accuracy-documents 10000]
    python benchmarks/deduplication.py --stage             # the whole stage from Parquet, one and two workers
    python benchmarks/deduplication.py --memory 1000000    # peak memory of the stage on short documents

Speed: from texts in memory to which of them stay, CPU seconds of this process on one core. The peers are slow, so
each gets a share of the corpus and is compared with ours on exactly that share (and on the whole, as a rate).
datatrove runs its four MinHash steps (14 x 8, files in a temporary directory) as it comes, with spaCy's words, and
with its word splitter replaced by `str.split`. rensa and datasketch have no splitter: they get 5-grams of
lower-cased words, by `str.split` (fast) and by `\\w+` (our definition); 128 hash functions, threshold 0.8.

Accuracy: pairs with Jaccard similarity >= 0.8 over `\\w+` 5-grams, found without any of our code by an inverted
index over Python sets (exact: prefix filter of Chaudhuri et al. 2006), on natural documents and on planted pairs.
"""

from __future__ import annotations

import os

os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")})

import argparse
import logging
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import xxhash

from benchmarks.corpus import load_corpus
from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from tasks.deduplication import STAGE, DeduplicationConfig, SketchSettings, find_duplicates
from tasks.deduplication.in_memory import Duplicates
from tasks.deduplication.pairs import unpack
from tasks.documents import DOCUMENT_SCHEMA, DOCUMENTS, write_table
from tasks.text.batch import TextBatch

SETTINGS = SketchSettings(ngram_words=5, permutations=128, bands=25, rows_per_band=5, seed=1)
THRESHOLD = 0.8
SMALL_BUCKET = 64
BYTES_PER_TOKEN = 4.2
WORD = re.compile(r"\w+")
SHORT_WORDS = 24

Kept = set[int]


@dataclass(frozen=True)
class Timing:
    """One system on some documents. kept: those that stay."""

    name: str
    megabytes: float
    seconds: float
    kept: Kept

    @property
    def rate(self) -> float:
        """MB/s of one core."""
        return self.megabytes / self.seconds

    def line(self, ours: Timing | None = None) -> str:
        """A row of the table; the ratio is ours on the same documents over this."""
        ratio = f"{ours.rate / self.rate:7.1f}x" if ours else ""
        tokens = self.rate / BYTES_PER_TOKEN
        return f"{self.name:44} {self.megabytes:6.1f} {self.rate:8.2f} {tokens:8.3f} {len(self.kept):8} {ratio}"


def timed(name: str, size: int, work: Callable[[], Kept], runs: int = 1) -> Timing:
    """CPU seconds of this process, best of some runs."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        kept = work()
        seconds.append(time.process_time() - start)
    return Timing(name, size / 1e6, min(seconds), kept)


def ours(batch: TextBatch) -> Kept:
    """Our engine: bytes in, indexes of what stays out."""
    found = find_duplicates(batch, SETTINGS, THRESHOLD, SMALL_BUCKET)
    return set(np.flatnonzero(found.keeper == np.arange(len(batch))).tolist())


def datatrove(texts: list[str], splitter: Callable[[str], list[str]] | None) -> Kept:
    """datatrove's four MinHash steps, one task each; `splitter` replaces its word tokenizer."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )

    def documents() -> Iterator[Document]:
        return (Document(text, str(number)) for number, text in enumerate(texts))

    with tempfile.TemporaryDirectory() as directory:
        signature = MinhashDedupSignature(f"{directory}/signatures")
        # datatrove 0.10.1 hands strings to xxhash, which version 4 refuses.
        signature._hash_func = lambda data: xxhash.xxh64_intdigest(data.encode())
        if splitter is not None:
            signature.word_tokenizer.word_tokenize = splitter
        signature.run(documents())
        buckets = MinhashDedupBuckets(f"{directory}/signatures", f"{directory}/buckets")
        for bucket in range(buckets.config.num_buckets):
            buckets.run(None, bucket, buckets.config.num_buckets)
        MinhashDedupCluster(f"{directory}/buckets", f"{directory}/remove").run(None, 0, 1)
        return {int(document.id) for document in MinhashDedupFilter(f"{directory}/remove").run(documents(), 0, 1)}


def split_words(text: str) -> list[str]:
    """The fastest way to words in Python."""
    return text.lower().split()


def our_words(text: str) -> list[str]:
    """Words as we define them."""
    return WORD.findall(text.lower())


def shingles_of(words: list[str]) -> list[str]:
    """5-grams as users of these libraries write them."""
    return [" ".join(words[start : start + 5]) for start in range(max(1, len(words) - 4))]


def rensa(texts: list[str], splitter: Callable[[str], list[str]]) -> Kept:
    """rensa's R-MinHash deduplicator, 128 hash functions in 16 bands; it checks the estimate."""
    from rensa import RMinHash, RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True, num_bands=16)
    kept = set()
    for number, text in enumerate(texts):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(shingles_of(splitter(text)))
        if deduplicator.add(str(number), sketch):
            kept.add(number)
    return kept


def datasketch(texts: list[str], splitter: Callable[[str], list[str]]) -> Kept:
    """datasketch's MinHash and MinHashLSH with its own choice of bands."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    kept = set()
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([shingle.encode() for shingle in shingles_of(splitter(text))])
        if not index.query(sketch):
            index.insert(number, sketch)
            kept.add(number)
    return kept


def speed(table: pa.Table, peer_megabytes: float) -> None:
    """Print all rates."""
    batch = TextBatch.from_arrow(table["text"])
    few = int(np.searchsorted(batch.offsets, peer_megabytes * 1e6)) - 1
    more = min(int(np.searchsorted(batch.offsets, 5 * peer_megabytes * 1e6)) - 1, len(batch))
    texts = table["text"].slice(0, more).to_pylist()
    ours(batch.slice(0, 200))  # compile, or load what is compiled
    print(f"{'':44} {'MB':>6} {'MB/s':>8} {'Mtok/s':>8} {'kept':>8}  ours/peer, same documents")
    print(timed("ours, exact verification", len(batch.buffer), lambda: ours(batch), 3).line())
    small, large = batch.slice(0, few), batch.slice(0, more)
    ours_small = timed("ours, the share of the slow peers", len(small.buffer), lambda: ours(small), 3)
    ours_large = timed("ours, rensa's share", len(large.buffer), lambda: ours(large), 3)
    print(ours_small.line())
    peers: list[tuple[str, Callable[[], Kept]]] = [
        ("datatrove 14x8 as it comes (spaCy)", lambda: datatrove(texts[:few], None)),
        ("datatrove 14x8, words by str.split", lambda: datatrove(texts[:few], str.split)),
        ("datasketch 128, words by str.split", lambda: datasketch(texts[:few], split_words)),
        ("datasketch 128, words by \\w+", lambda: datasketch(texts[:few], our_words)),
    ]
    datatrove(texts[:20], None)
    for name, work in peers:
        print(timed(name, len(small.buffer), work).line(ours_small), flush=True)
    print(ours_large.line())
    for name, splitter in (("str.split", split_words), ("\\w+", our_words)):
        peer = timed(f"rensa 128/16, words by {name}", len(large.buffer), lambda how=splitter: rensa(texts, how), 2)
        print(peer.line(ours_large), flush=True)


def word_sets(texts: list[str]) -> list[set[int]]:
    """Hashes (Python's own, 64 bits) of each text's `\\w+` 5-grams."""
    sets = []
    for text in texts:
        words = WORD.findall(text.lower())
        grams = {hash(tuple(words[start : start + 5])) for start in range(len(words) - 4)}
        sets.append(grams or {hash(tuple(words))})
    return sets


def true_pairs(sets: list[set[int]]) -> dict[tuple[int, int], float]:
    """All pairs with similarity >= THRESHOLD. Such a pair shares one of the rarest |A| - t|A| + 1 shingles of A."""
    frequency: Counter[int] = Counter()
    for one in sets:
        frequency.update(one)
    index: dict[int, list[int]] = {}
    found = {}
    for number, one in enumerate(sets):
        rarest = sorted(one, key=lambda gram: (frequency[gram], gram))
        candidates = set()
        for gram in rarest[: len(one) - math.ceil(THRESHOLD * len(one) - 1e-9) + 1]:
            candidates.update(index.get(gram, ()))
            index.setdefault(gram, []).append(number)
        for other in candidates:
            smaller, larger = sorted((len(one), len(sets[other])))
            if smaller >= THRESHOLD * larger:
                similarity = len(one & sets[other]) / len(one | sets[other])
                if similarity >= THRESHOLD:
                    found[other, number] = similarity
    return found


def components(count: int, pairs: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> list[int]:
    """Smallest member of each item's cluster."""
    parents = list(range(count))

    def root(item: int) -> int:
        while parents[item] != item:
            item = parents[item]
        return item

    for a, b in pairs:
        a, b = root(a), root(b)
        parents[max(a, b)] = min(a, b)
    return [root(item) for item in range(count)]


def natural_accuracy(table: pa.Table, documents: int) -> None:
    """The last documents of the corpus; the peers' speed is measured on the first ones."""
    texts = table["text"].slice(max(0, len(table) - documents)).to_pylist()
    truth = true_pairs(word_sets(texts))
    clusters = components(len(texts), list(truth))
    partners = {number for pair in truth for number in pair}
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"\nnatural documents: {len(texts)} ({size:.0f} MB), {len(truth)} pairs at >= {THRESHOLD}, ", end="")
    print(f"{len(texts) - len(set(clusters))} documents to remove")
    found = find_duplicates(TextBatch.from_texts(texts), SETTINGS, THRESHOLD, SMALL_BUCKET)
    # Texts that are equal are one to us: each stands for all of them.
    equal = found.equal.tolist()
    direct = linked_pairs(found)
    right = {(min(pair), max(pair)) for a, b in truth if (pair := (equal[a], equal[b]))} & direct
    together = sum(int(found.keeper[a] == found.keeper[b]) for a, b in truth)
    removed = {number for number in range(len(texts)) if found.keeper[number] != number}
    same = len(set(zip(found.keeper.tolist(), clusters, strict=True)))
    equals = same == len(set(clusters)) == len(set(found.keeper.tolist()))
    print(f"  ours: verified pairs {len(direct)}, precision {len(right) / len(direct):.4f}; recall of pairs ", end="")
    print(f"{together / len(truth):.4f}; clusters {'equal' if equals else 'differ'}")
    for name, gone in (("ours", removed), ("rensa 128/16", set(range(len(texts))) - rensa(texts, our_words))):
        left = sum(a not in gone and b not in gone for a, b in truth)
        print(
            f"  {name}: {len(gone)} removed, {len(gone & partners) / len(gone):.4f} of them with a true partner; ",
            end="",
        )
        print(f"{left} true pairs of which both stay")


def linked_pairs(found: Duplicates) -> set[tuple[int, int]]:
    """The pairs verified as near-duplicates."""
    return set(zip(*(side.tolist() for side in unpack(found.links.pairs)), strict=True))


def planted_accuracy(table: pa.Table, pairs: int, seed: int) -> None:
    """Edited copies of natural texts, similarity even between 0.5 and 1."""
    generator = random.Random(seed)
    everything = (text.split() for text in table["text"].to_pylist())
    chunks = [words[:600] for words in everything if len(words) > 120]
    generator.shuffle(chunks)
    taken = Counter[int]()
    texts: list[str] = []
    truth: list[float] = []
    for chunk in chunks:
        if len(truth) >= pairs:
            break
        pair = [" ".join(chunk), " ".join(edited(chunk, chunks, generator))]
        similarity = pair_similarities(pair)[0]
        share = min(int(similarity * 100), 99)
        if similarity >= 0.5 and taken[share] < pairs / 40:
            taken[share] += 1
            texts += pair
            truth.append(similarity)
    found = find_duplicates(TextBatch.from_texts(texts), SETTINGS, THRESHOLD, SMALL_BUCKET)
    direct, equal, keeper = linked_pairs(found), found.equal.tolist(), found.keeper.tolist()
    numbers = range(len(truth))
    verified = {n for n in numbers if equal[2 * n] == equal[2 * n + 1]}
    verified |= {n for n in numbers if tuple(sorted(equal[2 * n : 2 * n + 2])) in direct}
    true = {n for n in numbers if truth[n] >= THRESHOLD}
    together = {n for n in numbers if keeper[2 * n] == keeper[2 * n + 1]}
    print(f"\nplanted pairs (seed {seed}): {len(truth)}, similarity {min(truth):.2f} to {max(truth):.2f}, ", end="")
    print(f"{len(true)} of them duplicates: precision {len(verified & true) / len(verified):.4f}, ", end="")
    print(f"recall {len(together & true) / len(true):.4f}")


def pair_similarities(texts: list[str]) -> list[float]:
    """Similarity of texts 0 and 1, 2 and 3, and so on."""
    sets = word_sets(texts)
    return [len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)]


def edited(words: list[str], others: list[list[str]], generator: random.Random) -> list[str]:
    """A copy with some words changed, moved, left out or added, its lines joined anew, or a foreign passage put in."""
    rate = generator.random() ** 1.5 * 0.15
    kind = generator.choice(("words", "words", "swap", "passage", "end", "foreign"))
    if kind == "end":
        return words[: max(30, int(len(words) * (1 - 3 * rate)))]
    if kind == "passage":
        size, start = int(len(words) * 3 * rate), generator.randrange(len(words))
        return words[:start] + words[start + size :]
    if kind == "foreign":
        start = generator.randrange(len(words))
        return words[:start] + generator.choice(others)[: int(len(words) * 4 * rate)] + words[start:]
    result = []
    for word in words:
        chance = generator.random()
        if kind == "swap" and result and chance < rate:
            result.insert(-1, word)
        elif chance < rate / 3:
            continue
        elif chance < rate:
            result += [generator.choice(generator.choice(others)), word][: 1 + (chance > 2 * rate / 3)]
        else:
            result.append(word)
    return result


class TableConfig(StageConfig):
    """A made-up input artifact for the stage."""

    name: str
    documents: int
    shards: int


def stage_input(store: ArtifactStore, name: str, table: pa.Table, shards: int) -> Artifact:
    """The table as a finished artifact of document shards."""

    def write(context: StageContext[TableConfig]) -> StageResult:
        each = -(-len(table) // shards)
        for shard in range(shards):
            part = table.slice(shard * each, each)
            columns = {**{field.name: part.column(field.name) for field in part.schema}}
            filler = pa.array([""] * len(part), pa.string())
            columns |= dict.fromkeys(("origin", "licence"), filler)
            rows = pa.table({field.name: columns[field.name].cast(field.type) for field in DOCUMENT_SCHEMA})
            write_table(context.directory / DOCUMENTS / f"part-{shard:05d}.parquet", rows)
        return StageResult()

    stage = Stage("benchmark", "filtered_documents", 1, TableConfig, write)
    return build_stage(stage, TableConfig(name=name, documents=len(table), shards=shards), {}, store).artifact


def stage_speed(table: pa.Table) -> None:
    """The whole stage, Parquet to Parquet, with planted pairs, index and report."""
    size = TextBatch.from_arrow(table["text"]).offsets[-1] / 1e6
    seconds = {}
    with tempfile.TemporaryDirectory() as directory:
        store = ArtifactStore.open(directory, Path(directory))
        documents = stage_input(store, "corpus", table, 16)
        # Workers are forked from a process that loads everything once a run: that is not this stage's time.
        warm = stage_input(store, "warm", table.slice(0, 200), 4)
        build_stage(STAGE, DeduplicationConfig(), {"documents": warm}, store)
        for workers in (1, 2):
            target = ArtifactStore.open(f"{directory}/{workers}", Path(directory))
            before = time.process_time()
            start = time.perf_counter()
            made = build_stage(STAGE, DeduplicationConfig(workers=workers), {"documents": documents}, target).artifact
            seconds[workers] = time.perf_counter() - start
            rate = size / seconds[workers]
            print(f"stage, {workers} worker(s): {seconds[workers]:6.1f} s, {rate:6.1f} MB/s, ", end="")
            print(
                f"{rate / BYTES_PER_TOKEN:5.2f} Mtok/s; CPU of this process {time.process_time() - before:.1f} s; ",
                end="",
            )
            print(f"{made.manifest.metrics['dedup/documents']:.0f} kept; {made.manifest.content_checksum}")
    print(f"two workers / one: {seconds[1] / seconds[2]:.2f}x")


def short_documents(count: int) -> pa.Table:
    """Short made-up texts; every tenth is an earlier one with one word changed."""
    generator = np.random.default_rng(7)
    words = generator.integers(0, 50_000, (count, SHORT_WORDS))
    copies = np.arange(10, count, 10)
    words[copies] = words[copies - 5]
    words[copies, 0] = 50_000
    texts = pa.array([" ".join(map(str, row)) for row in words.tolist()], pa.string())
    ids = pa.array([f"{number:032x}" for number in range(count)], pa.string())
    return pa.table({"id": ids, "text": texts, "source": pa.array(["made up"] * count)})


MEMORY_CHILD = """
import re, sys
from pathlib import Path
from infra.artifacts import ArtifactStore, build_stage
from tasks.deduplication import STAGE, DeduplicationConfig
if __name__ == "__main__":
    root, fingerprint, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    def peak():  # getrusage would count the parent's
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    before = peak()
    store = ArtifactStore.open(root, Path(root))
    target = ArtifactStore.open(f"{root}/{limit}", Path(root))
    config = DeduplicationConfig(workers=1, memory_limit_bytes=limit)
    made = build_stage(STAGE, config, {"documents": store.find("filtered_documents", fingerprint)}, target).artifact
    index = sum(entry.size_bytes for entry in made.manifest.files if entry.path.startswith("index/"))
    kept = made.manifest.metrics["dedup/documents"]
    print(f"{before / 1024:.0f} {peak() / 1024:.0f} {index} {kept:.0f} {made.manifest.content_checksum}")
"""


def memory(documents: int) -> None:
    """Peak resident memory of the whole stage in one process, with a little and with much allowed."""
    with tempfile.TemporaryDirectory() as directory:
        artifact = stage_input(ArtifactStore.open(directory, Path(directory)), "short", short_documents(documents), 16)
        print(f"{documents} documents of {SHORT_WORDS} words")
        for limit in (16 << 20, 128 << 20, 1 << 30):
            command = [sys.executable, "-c", MEMORY_CHILD, directory, artifact.manifest.fingerprint, str(limit)]
            start = time.perf_counter()
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            print(f"limit {limit >> 20:5} MiB: peak {output[1]} MB resident ({output[0]} before), index "
                  f"{int(output[2]) / documents:.0f} bytes a document, {output[3]} kept, "
                  f"{time.perf_counter() - start:.0f} s, {output[4]}", flush=True)  # fmt: skip
            shutil.rmtree(f"{directory}/{limit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--megabytes", type=int, default=220, help="size of the corpus")
    parser.add_argument(
        "--peer-megabytes", type=float, default=12, help="share of the slow peers; rensa has 5 times it"
    )
    parser.add_argument("--accuracy-documents", type=int, default=10_000, help="natural documents for the accuracy")
    parser.add_argument("--planted-pairs", type=int, default=3_000, help="planted pairs for the accuracy")
    parser.add_argument("--seed", type=int, default=20261121, help="seed of the planted pairs")
    parser.add_argument("--only", choices=("speed", "accuracy"), help="one of the two parts")
    parser.add_argument("--stage", action="store_true", help="time the whole stage instead")
    parser.add_argument("--memory", type=int, metavar="DOCUMENTS", help="measure the stage's memory instead")
    options = parser.parse_args()
    silence_peers()
    if options.memory:
        return memory(options.memory)
    table = load_corpus(options.megabytes)
    if options.stage:
        return stage_speed(table)
    if options.only != "accuracy":
        speed(table, options.peer_megabytes)
    if options.only != "speed":
        planted_accuracy(table, options.planted_pairs, options.seed)
        natural_accuracy(table, options.accuracy_documents)
    return None


def silence_peers() -> None:
    """datatrove logs every step."""
    from datatrove.utils.logging import logger

    logger.remove()
    logging.disable(logging.INFO)


if __name__ == "__main__":
    main()
