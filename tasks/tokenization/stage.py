"""The tokenization stage: one tokenizer, then every document as token ids in memory-mapped shards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.errors import ConfigurationError, PipelineError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.charts import plain_bars
from tasks.documents import PLOTS, carried_statistics, document_shards, only_input, read_table
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput
from tasks.tokenization.config import TokenizationConfig
from tasks.tokenization.token_shards import SOURCES_FILE, token_dtype, write_token_shard
from tasks.tokenization.tokenizer import (
    LoadedTokenizer,
    encode_batch,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TOKENIZER_FILE = "tokenizer.json"
SPLITS = ("train", "validation")
_BATCH_DOCUMENTS = 256
_HASH_SPACE = 1 << 64


@dataclass(frozen=True)
class EncodeUnit:
    """One document shard to encode. Documents hashing below `validation_below` are held out."""

    documents: Path
    directory: Path
    number: int
    tokenizer: Path
    end_of_text: str
    source_numbers: dict[str, int]
    validation_below: int
    self_check_documents: int


def run(context: StageContext[TokenizationConfig]) -> StageResult:
    """Encode the input's documents; see `TokenizationConfig` for the choices."""
    config = context.config
    artifact = only_input(context)
    shards = document_shards(artifact)
    hashes, sources = _document_hashes(shards)
    tokenizer_path = context.directory / TOKENIZER_FILE
    context.report(0.01, "preparing the tokenizer", None)
    _provide_tokenizer(context, shards, hashes, tokenizer_path)
    source_numbers = {name: number for number, name in enumerate(sorted(set(sources)))}
    with atomic_file(context.directory / SOURCES_FILE) as stream:
        stream.write(orjson.dumps(list(source_numbers)))
    below = _validation_bound(hashes, config)
    units = {
        name: EncodeUnit(
            path,
            context.directory,
            number,
            tokenizer_path,
            config.end_of_text,
            source_numbers,
            below,
            config.self_check_documents,
        )
        for number, (name, path) in enumerate(shards.items())
    }
    with ShardWorkers(context, config.workers) as workers:
        figures = workers.run(ProgressSpan("encoding", 0.3, 0.97), units, encode_shard)
    return _result(context, artifact, figures, load_tokenizer(tokenizer_path, config.end_of_text), list(source_numbers))


def encode_shard(unit: EncodeUnit) -> UnitOutput:
    """Encode one document shard into a train and a validation shard (empty ones are not written)."""
    # One thread a process: the workers are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    loaded = load_tokenizer(unit.tokenizer, unit.end_of_text)
    table = read_table(unit.documents, ["id", "text", "source"])
    texts = table.column("text").to_pylist()
    documents = list(_encode(loaded, texts))
    _self_check(unit, loaded, texts, documents)
    held_out = [document_hash(identity) < unit.validation_below for identity in table.column("id").to_pylist()]
    sources = table.column("source").to_pylist()
    sizes = [len(text.encode()) for text in texts]
    files: list[Path] = []
    statistics: dict[str, Any] = {}
    for split in SPLITS:
        rows = [row for row, is_held_out in enumerate(held_out) if is_held_out == (split == "validation")]
        if rows:
            files += write_token_shard(
                unit.directory / f"{split}-{unit.number:05d}",
                [documents[row] for row in rows],
                [unit.source_numbers[sources[row]] for row in rows],
                [sizes[row] for row in rows],
                token_dtype(loaded.vocabulary_size),
            )
        statistics[split] = _split_figures(rows, sources, documents, sizes)
    return UnitOutput(tuple(files), statistics)


def document_hash(identity: str) -> int:
    """64 bits that decide a document's split and whether the tokenizer is trained on it."""
    return xxhash.xxh3_64_intdigest(identity.encode())


def _document_hashes(shards: Mapping[str, Path]) -> tuple[list[int], list[str]]:
    hashes: list[int] = []
    sources: list[str] = []
    for path in shards.values():
        table = read_table(path, ["id", "source"])
        hashes += [document_hash(identity) for identity in table.column("id").to_pylist()]
        sources += table.column("source").to_pylist()
    return hashes, sources


def _validation_bound(hashes: list[int], config: TokenizationConfig) -> int:
    """Documents whose hash is below this are held out: the wanted share, but at least the wanted number."""
    by_share = int(config.validation_fraction * _HASH_SPACE)
    wanted = config.minimum_validation_documents
    if wanted >= len(hashes):
        raise ConfigurationError(
            f"the corpus has {len(hashes)} documents and {wanted} are to be held out.",
            "lower `minimum_validation_documents`, or use more data.",
        )
    return max(by_share, sorted(hashes)[wanted - 1] + 1 if wanted else 0)


def _provide_tokenizer(
    context: StageContext[TokenizationConfig], shards: Mapping[str, Path], hashes: list[int], path: Path
) -> None:
    """Put tokenizer.json in place: copied, or trained on a sample chosen by document hash."""
    config = context.config
    if config.tokenizer_path is not None:
        if config.tokenizer_checksum and checksum_file(config.tokenizer_path) != config.tokenizer_checksum:
            raise ConfigurationError(
                f"tokenizer '{config.tokenizer_path}' changed since the run was planned.", "start the run again."
            )
        load_tokenizer(config.tokenizer_path, config.end_of_text)
        with atomic_file(path) as stream:
            stream.write(config.tokenizer_path.read_bytes())
        return
    if context.shards.is_done("tokenizer"):
        return
    bound = _training_bound(shards, hashes, config)
    save_tokenizer(train_tokenizer(_training_texts(shards, bound), config), path)
    context.shards.finish("tokenizer", [path])


def _training_bound(shards: Mapping[str, Path], hashes: list[int], config: TokenizationConfig) -> int:
    """Train on the documents with the highest hashes: never the held-out ones while there are others."""
    total = sum(len(text.encode()) for path in shards.values() for text in _texts(path))
    share = min(config.training_sample_bytes / max(total, 1), 1.0)
    ordered = sorted(hashes)
    return ordered[int(len(ordered) * (1 - share))] if share < 1 else 0


def _training_texts(shards: Mapping[str, Path], bound: int) -> Iterator[str]:
    for path in shards.values():
        table = read_table(path, ["id", "text"])
        for identity, text in zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True):
            if document_hash(identity) >= bound:
                yield text


def _texts(path: Path) -> list[str]:
    texts: list[str] = read_table(path, ["text"]).column("text").to_pylist()
    return texts


def _encode(loaded: LoadedTokenizer, texts: list[str]) -> Iterator[list[int]]:
    for start in range(0, len(texts), _BATCH_DOCUMENTS):
        for ids in encode_batch(loaded.tokenizer, texts[start : start + _BATCH_DOCUMENTS]):
            ids.append(loaded.end_of_text)
            yield ids


def _self_check(unit: EncodeUnit, loaded: LoadedTokenizer, texts: list[str], documents: list[list[int]]) -> None:
    """Decode evenly spread documents and compare: a silent loss here would be trained on."""
    step = max(1, len(texts) // max(unit.self_check_documents, 1))
    for row in range(0, len(texts), step)[: unit.self_check_documents]:
        decoded = loaded.tokenizer.decode(documents[row][:-1], skip_special_tokens=False)
        if decoded != texts[row]:
            raise PipelineError(
                f"tokenizer '{unit.tokenizer}' does not give back document {row} of '{unit.documents}'.",
                "use a byte-level tokenizer without normalisation.",
            )


def _split_figures(
    rows: list[int], sources: list[str], documents: list[list[int]], sizes: list[int]
) -> dict[str, dict[str, int]]:
    tokens: Counter[str] = Counter()
    text_bytes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for row in rows:
        tokens[sources[row]] += len(documents[row])
        text_bytes[sources[row]] += sizes[row]
        counts[sources[row]] += 1
    return {"tokens": dict(tokens), "bytes": dict(text_bytes), "documents": dict(counts)}


def _result(
    context: StageContext[TokenizationConfig],
    artifact: Artifact,
    figures: Mapping[str, dict[str, Any]],
    loaded: LoadedTokenizer,
    sources: list[str],
) -> StageResult:
    totals = {
        split: {key: _summed(figures, split, key) for key in ("tokens", "bytes", "documents")} for split in SPLITS
    }
    tokens = {split: sum(totals[split]["tokens"].values()) for split in SPLITS}
    text_bytes = sum(sum(totals[split]["bytes"].values()) for split in SPLITS)
    all_tokens = sum(tokens.values())
    per_source = [sum(totals[split]["tokens"][source] for split in SPLITS) for source in sources]
    plain_bars(context.directory / PLOTS / "tokens_by_source.png", "Tokens by source", "tokens", sources, per_source)
    return StageResult(
        metrics={
            "tokens/total": all_tokens,
            "tokens/train": tokens["train"],
            "tokens/validation": tokens["validation"],
            "tokens/bytes_per_token": text_bytes / max(all_tokens, 1),
            "tokens/vocabulary_size": loaded.vocabulary_size,
            **{f"tokens/source/{source}": count for source, count in zip(sources, per_source, strict=True)},
        },
        tables={
            "tokens": [
                {
                    "Source": source,
                    "Documents": sum(totals[split]["documents"][source] for split in SPLITS),
                    "Tokens for training": totals["train"]["tokens"][source],
                    "Tokens held out": totals["validation"]["tokens"][source],
                    "Bytes per token": round(
                        sum(totals[split]["bytes"][source] for split in SPLITS) / max(per_source[place], 1), 3
                    ),
                }
                for place, source in enumerate(sources)
            ]
        },
        statistics={
            "splits": {split: {key: dict(value) for key, value in totals[split].items()} for split in SPLITS},
            "end_of_text": loaded.end_of_text,
            "vocabulary_size": loaded.vocabulary_size,
            "carried": dict(carried_statistics(artifact)),
        },
    )


def _summed(figures: Mapping[str, dict[str, Any]], split: str, key: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for figure in figures.values():
        total.update(figure[split][key])
    return total


STAGE = Stage("tokenization", "tokens", 1, TokenizationConfig, run)
