"""The tokenization stage: one tokenizer, then every document as token ids in memory-mapped shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.charts import plain_bars
from tasks.documents import PLOTS, carried_statistics, document_shards, only_input, read_table
from tasks.sharded_work import ProgressSpan, ShardWorkers
from tasks.tokenization.config import TokenizationConfig
from tasks.tokenization.encoding import SPLITS, EncodeUnit, document_hashes, encode_shard
from tasks.tokenization.engines import close_engines
from tasks.tokenization.token_shards import SOURCES_FILE
from tasks.tokenization.tokenizer import LoadedTokenizer, load_tokenizer, save_tokenizer
from tasks.tokenization.training import train_on_sample, training_bound

TOKENIZER_FILE = "tokenizer.json"
_HASH_SPACE = 1 << 64


def run(context: StageContext[TokenizationConfig]) -> StageResult:
    """Encode the input's documents; see `TokenizationConfig` for the choices."""
    config = context.config
    artifact = only_input(context)
    shards = document_shards(artifact)
    hashes, sources = _document_hashes(shards)
    tokenizer_path = context.directory / TOKENIZER_FILE
    context.report(0.01, "preparing the tokenizer", None)
    _provide_tokenizer(context, shards, hashes, tokenizer_path)
    with atomic_file(context.directory / SOURCES_FILE) as stream:
        stream.write(orjson.dumps(sources))
    below = _validation_bound(hashes, config)
    units = {
        name: EncodeUnit(
            path,
            context.directory,
            number,
            tokenizer_path,
            config.end_of_text,
            tuple(sources),
            below,
            config.self_check_documents,
        )
        for number, (name, path) in enumerate(shards.items())
    }
    try:
        with ShardWorkers(context, config.workers) as workers:
            figures = workers.run(ProgressSpan("encoding", 0.3, 0.97), units, encode_shard)
    finally:
        close_engines()
    _warn_of_fallbacks(context, figures)
    return _result(context, artifact, figures, load_tokenizer(tokenizer_path, config.end_of_text), sources)


def _document_hashes(shards: Mapping[str, Path]) -> tuple[npt.NDArray[np.uint64], list[str]]:
    """[documents] hash of every document, and the names of all sources."""
    hashes = [np.zeros(0, np.uint64)]
    sources: set[str] = set()
    for path in shards.values():
        table = read_table(path, ["id", "source"])
        hashes.append(document_hashes(table.column("id")))
        sources.update(pc.unique(table.column("source")).to_pylist())
    return np.concatenate(hashes), sorted(sources)


def _validation_bound(hashes: npt.NDArray[np.uint64], config: TokenizationConfig) -> int:
    """Documents whose hash is below this are held out: the wanted share, but at least the wanted number."""
    by_share = int(config.validation_fraction * _HASH_SPACE)
    wanted = config.minimum_validation_documents
    if wanted >= len(hashes):
        raise ConfigurationError(
            f"the corpus has {len(hashes)} documents and {wanted} are to be held out.",
            "lower `minimum_validation_documents`, or use more data.",
        )
    return max(by_share, int(np.partition(hashes, wanted - 1)[wanted - 1]) + 1 if wanted else 0)


def _provide_tokenizer(
    context: StageContext[TokenizationConfig],
    shards: Mapping[str, Path],
    hashes: npt.NDArray[np.uint64],
    path: Path,
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
    bound = training_bound(shards, hashes, config.training_sample_bytes)
    trained = train_on_sample(
        shards, bound, config, lambda share, message: context.report(0.01 + 0.28 * share, message, None)
    )
    save_tokenizer(trained, path)
    context.shards.finish("tokenizer", [path])


def _warn_of_fallbacks(context: StageContext[TokenizationConfig], figures: Mapping[str, dict[str, Any]]) -> None:
    """Say once for each reason that shards were encoded by the slow reference engine."""
    reasons = Counter(figure["encoding"]["difference"] for figure in figures.values())
    for reason, shards in sorted(reasons.items()):
        if reason:
            context.log.warning("%s; `tokenizers` encoded %d of %d shards instead.", reason, shards, len(figures))


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
    engines = _engine_rows(figures)
    per_source = [sum(totals[split]["tokens"][source] for split in SPLITS) for source in sources]
    plain_bars(context.directory / PLOTS / "tokens_by_source.png", "Tokens by source", "tokens", sources, per_source)
    return StageResult(
        metrics={
            "tokens/total": all_tokens,
            "tokens/train": tokens["train"],
            "tokens/validation": tokens["validation"],
            "tokens/bytes_per_token": text_bytes / max(all_tokens, 1),
            "tokens/vocabulary_size": loaded.vocabulary_size,
            "tokens/fallback_shards": sum(row["Shards"] for row in engines if row["Reason"]),
            "tokens/altered_documents": sum(row["Changed by normalisation"] for row in engines),
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
            ],
            "encoding": engines,
        },
        statistics={
            "splits": {split: {key: dict(value) for key, value in totals[split].items()} for split in SPLITS},
            "end_of_text": loaded.end_of_text,
            "vocabulary_size": loaded.vocabulary_size,
            "carried": dict(carried_statistics(artifact)),
        },
    )


def _engine_rows(figures: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each engine and reason: shards, documents compared with the reference, documents changed."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for figure in figures.values():
        encoding = figure["encoding"]
        row = rows.setdefault(
            (encoding["engine"], encoding["difference"]),
            {"Engine": encoding["engine"], "Shards": 0, "Documents compared": 0, "Changed by normalisation": 0},
        )
        row["Shards"] += 1
        row["Documents compared"] += encoding["compared"]
        row["Changed by normalisation"] += encoding["altered"]
        row["Reason"] = encoding["difference"]
    return [rows[key] for key in sorted(rows)]


def _summed(figures: Mapping[str, dict[str, Any]], split: str, key: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for figure in figures.values():
        total.update(figure[split][key])
    return total


STAGE = Stage("tokenization", "tokens", 1, TokenizationConfig, run)
