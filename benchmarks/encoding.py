"""Encoding text into token ids: our engine against `tokenizers` and tiktoken, same documents, same vocabulary.

    python benchmarks/encoding.py [--megabytes 220] [--peer-megabytes 220] [--vocabularies 32768 4096]

Rates are CPU time of one core. Ours goes from Arrow's bytes to packed ids with end-of-text tokens, the peers from
Python strings to Python lists. *Cold*: one pass over documents it has not seen, from an empty cache (median of three);
*warm*: the same documents again. Ids are compared for every document that the peers encode.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken
from tokenizers import pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.corpus import load_corpus
from tasks.text import TextBatch
from tasks.tokenization import TokenizationConfig
from tasks.tokenization.encoding import document_hashes
from tasks.tokenization.engines import Engines, FastEngine, close_engines, open_engines
from tasks.tokenization.token_shards import token_dtype
from tasks.tokenization.tokenizer import encode_batch, save_tokenizer, train_tokenizer

PART_BYTES = 8 << 20
PEER_DOCUMENTS = 256
TRAINING_SHARE = 0.1
COLD_PASSES = 3
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Ids = npt.NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """One pass over documents. ids: all tokens, without end-of-text; lengths: [documents] tokens of each."""

    name: str
    ids: Ids
    lengths: npt.NDArray[np.int64]
    size_bytes: int
    seconds: float

    def line(self, reference: Encoded) -> str:
        """A row of the table."""
        megabytes = self.size_bytes / 1e6
        rate, other = megabytes / self.seconds, reference.size_bytes / 1e6 / reference.seconds
        tokens = len(self.ids) / self.seconds / 1e6
        return f"{self.name:44} {megabytes:8.1f} {rate:9.2f} {tokens:9.2f} {rate / other:9.1f}x"

    def differing(self, other: Encoded, shift: int = 0) -> int:
        """Documents of `other` whose ids, plus `shift`, are not ours."""
        ours = np.split(self.ids, np.cumsum(self.lengths)[:-1])
        theirs = np.split(other.ids, np.cumsum(other.lengths)[:-1])
        return sum(not np.array_equal(a, b + shift) for a, b in zip(ours, theirs, strict=False))


def our_pass(name: str, engine: FastEngine, batch: TextBatch, end: int, packed: Ids) -> Encoded:
    """Encode and pack into `packed` (memory that is there already, as a file's pages are) as the stage does."""
    closing = np.array([end], packed.dtype)
    lengths: list[int] = []
    position = 0
    start = time.process_time()
    for _, part in batch.parts(PART_BYTES):
        documents = engine.encode(part)
        lengths += map(len, documents)
        tokens = np.concatenate([piece for ids in documents for piece in (ids, closing)])
        packed[position : position + len(tokens)] = tokens
        position += len(tokens)
    seconds = time.process_time() - start
    counts = np.array(lengths, np.int64)
    ends = np.cumsum(counts + 1) - 1
    assert (packed[ends] == end).all()
    return Encoded(name, np.delete(packed[:position], ends), counts, len(batch.buffer), seconds)


def peer_pass(name: str, strings: list[str], encode: Callable[[list[str]], list[list[int]]]) -> Encoded:
    """Encode strings to lists of ids; turning these into arrays is not on the clock."""
    ids: list[Ids] = []
    seconds = 0.0
    for first in range(0, len(strings), PEER_DOCUMENTS):
        start = time.process_time()
        rows = encode(strings[first : first + PEER_DOCUMENTS])
        seconds += time.process_time() - start
        ids += [np.array(row, np.uint32) for row in rows]
    size = sum(len(text.encode()) for text in strings)
    return Encoded(name, np.concatenate(ids), np.array([len(row) for row in ids], np.int64), size, seconds)


def tiktoken_of(engines: Engines) -> tiktoken.Encoding:
    """The same vocabulary in tiktoken, whose ids are ours less the special tokens in front."""
    letters = {letter: byte for byte, letter in byte_letters().items()}
    vocabulary = engines.loaded.tokenizer.get_vocab(with_added_tokens=True)
    special = [token for token in vocabulary if token in ("<|endoftext|>", "<|pad|>")]
    ranks = {
        bytes(letters[letter] for letter in token): number - len(special)
        for token, number in vocabulary.items()
        if token not in special
    }
    return tiktoken.Encoding("ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    assert set(letters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def compare(vocabulary: int, batch: TextBatch, peer_rows: int, training_texts: list[str], directory: Path) -> None:
    """Train a vocabulary and print one table."""
    config = TokenizationConfig(vocabulary_size=vocabulary)
    path = directory / f"{vocabulary}.json"
    save_tokenizer(train_tokenizer(training_texts, config), path)
    packed = np.ones(len(batch.buffer) // 2, token_dtype(vocabulary))
    passes = []
    for _ in range(COLD_PASSES):
        close_engines()
        engines = open_engines(path, config.end_of_text)
        if engines.fast is None:
            raise SystemExit(f"the fast engine refuses the tokenizer: {engines.refusal}")
        end = engines.loaded.end_of_text
        passes.append(our_pass("ours, cold", engines.fast, batch, end, packed))
    assert engines.fast is not None
    cold = sorted(passes, key=lambda each: each.seconds)[COLD_PASSES // 2]
    warm = our_pass("ours, warm", engines.fast, batch, end, packed)
    decoding, wrong = decode_all(engines.fast, batch, cold)
    strings = batch.slice(0, peer_rows).texts()
    reference = peer_pass("tokenizers encode_batch_fast", strings, lambda t: encode_batch(engines.loaded.tokenizer, t))
    openai = tiktoken_of(engines)
    tik = peer_pass("tiktoken encode_ordinary_batch", strings, lambda t: openai.encode_ordinary_batch(t, num_threads=1))
    special = len(engines.loaded.tokenizer.get_vocab()) - openai.n_vocab
    print(f"\nvocabulary {vocabulary}, {len(batch.buffer) / max(len(cold.ids), 1):.2f} bytes a token")
    print(f"{'':44} {'MB':>8} {'MB/s':>9} {'Mtok/s':>9} {'tokenizers':>10}")
    for row in (cold, warm, decoding, tik, reference):
        print(row.line(reference))
    print(f"documents not given back: {wrong} of {len(batch)}")
    print(f"documents that differ from tokenizers: {cold.differing(reference)} of {len(strings)}")
    print(f"documents in which tiktoken differs: {cold.differing(tik, special)} of {len(strings)}", flush=True)


def decode_all(engine: FastEngine, batch: TextBatch, encoded: Encoded) -> tuple[Encoded, int]:
    """The stage's own check: every document decoded and compared with its bytes; how many differ."""
    documents = np.split(encoded.ids.astype(np.uint32), np.cumsum(encoded.lengths)[:-1])
    bounds = batch.offsets.tolist()
    start = time.process_time()
    wrong = sum(
        engine.decode(ids) != batch.buffer[bounds[row] : bounds[row + 1]].tobytes() for row, ids in enumerate(documents)
    )
    seconds = time.process_time() - start
    return replace(encoded, name="  every document decoded and compared", seconds=seconds), wrong


def main() -> None:
    """Print a table for each vocabulary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=220, help="text that ours encodes")
    parser.add_argument("--peer-megabytes", type=int, default=220, help="text that the peers encode")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32768, 4096])
    arguments = parser.parse_args()
    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    table = load_corpus(arguments.megabytes)
    batch = TextBatch.from_arrow(table.column("text"))
    peer_rows = int(np.searchsorted(batch.offsets, arguments.peer_megabytes * 1e6 + 1e6, side="right")) - 1
    chosen = document_hashes(table.column("id")) % np.uint64(1000) < np.uint64(int(1000 * TRAINING_SHARE))
    training_texts = batch.take(np.flatnonzero(chosen)).texts()
    print(f"{len(batch)} documents, {len(batch.buffer) / 1e6:.1f} MB; peers {peer_rows} documents; one core, CPU time")
    print(json.dumps({name: __import__(name).__version__ for name in ("tokenizers", "tiktoken")}))
    with tempfile.TemporaryDirectory() as directory:
        for vocabulary in arguments.vocabularies:
            compare(vocabulary, batch, peer_rows, training_texts, Path(directory))


if __name__ == "__main__":
    main()
