"""A store with the whole chain of a tiny model: sources, tokens, checkpoint, evaluation, quantized."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from infra.artifacts import Artifact, ArtifactStore, FileEntry, Manifest, build_stage
from infra.artifacts.manifest import StageCost
from infra.artifacts.store import MANIFEST_NAME
from infra.storage.checksum import checksum_file
from model import HybridLM, preset, save
from model.exports.gguf import GGUFFormat, save_gguf
from model.quantization import save_int4, save_int8
from tasks.evaluation.items import ItemScores, write_items
from tasks.registration import STAGE, RegistrationConfig
from tasks.registration.ancestry import recomputed_fingerprint

SEPARATOR = "<|endoftext|>"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds: done once, copied for every test."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri).create_experiment("sam2-registration", artifact_location=str(tmp_path / "files"))
    return uri


def publish(
    store: ArtifactStore, kind: str, label: str, write: Callable[[Path], None], config: Any = None, **fields: Any
) -> Artifact:
    """A finished artifact as a stage would have left it, its fingerprint that of what it says of itself."""
    fields = {"stage": kind, "inputs": {}, **fields}
    manifest = Manifest(
        kind=kind, fingerprint="", stage_version=1, config={"label": label, **(config or {})}, files=(),
        code_version="abc123", created_at="2026-01-01T00:00:00+00:00", cost=StageCost(seconds=10, usd=0.01), **fields,
    )  # fmt: skip
    fingerprint = recomputed_fingerprint(manifest)
    directory = store.working_directory(kind, fingerprint)
    write(directory)
    files = tuple(
        FileEntry(
            path=path.relative_to(directory).as_posix(),
            size_bytes=path.stat().st_size,
            checksum=checksum_file(path),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    )
    return store.publish(manifest.model_copy(update={"fingerprint": fingerprint, "files": files}), directory)


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {SEPARATOR: 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SEPARATOR])
    return tokenizer


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    torch.set_num_threads(1)
    return ArtifactStore.open(str(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def chain(store: ArtifactStore) -> dict[str, Artifact]:
    """The registration stage's inputs, with what they were made from behind them."""
    torch.manual_seed(0)
    # Wide enough for K-quants.
    changes = {"vocabulary_size": 512, "maximum_context": 512, "layer_count": 2, "layer_kinds": ("hgrn2", "attention")}
    model = HybridLM(preset("miniature-256").changed(**changes)).eval()
    raw = publish(
        store, "raw_documents", "a", lambda directory: None, stage="download",
        tables={"sources": [{"Source": "docs | <b>evil</b>", "Licence": "MIT", "Kept": 120}]},
        config={"sources": [{"name": "docs", "uri": "pypi://docs==1", "licence": "MIT", "pinned": "sha256:0bd5"}]},
        statistics={"sources": {"docs": {"kept": 120, "kept_bytes": 34567}}},
    )  # fmt: skip
    tokens = publish(
        store, "tokens", "b", lambda directory: _tokenizer().save(str(directory / "tokenizer.json")),
        stage="tokenization", inputs={"documents": raw.reference}, metrics={"tokens/total": 5000.0},
    )  # fmt: skip
    checkpoint = publish(
        store, "checkpoint", "c", lambda directory: save(model, directory / "model"), stage="training",
        inputs={"tokens": tokens.reference}, metrics={"train/tokens": 4000.0},
    )  # fmt: skip
    inputs = {"tokens": tokens.reference, "checkpoint": checkpoint.reference}

    def quantize(directory: Path) -> None:
        save_int8(model, directory / "int8")
        save_int4(model, directory / "int4")
        (directory / "gguf").mkdir()
        for kind in (GGUFFormat.Q8_0, GGUFFormat.Q4_K_M):
            place = directory / f"gguf/model-{kind}.gguf"
            save_gguf(model, place, kind, tokenizer=tokens.path("tokenizer.json"))

    quantized = publish(
        store, "quantized", "d", quantize, stage="quantization", inputs=inputs,
        statistics={"accepted": ["int8", "int4", "q4_k_m"], "refused": {"q8_0": "too much lost"}},
        tables={"formats": [{"format": "int8", "size_mb": 0.4, "verdict": "accepted"}]},
    )  # fmt: skip
    return {"tokens": tokens, "checkpoint": checkpoint, "quantized": quantized}


@pytest.fixture(scope="session")
def make_bundle(store: ArtifactStore, chain: dict[str, Artifact]) -> Callable[..., Artifact]:
    """Build the bundle of an evaluation: `make_bundle("1", [gate rows], items, model_name=...)`."""

    def make(
        evaluation: str, gates: list[dict[str, Any]], items: Sequence[ItemScores] | None = None, **config: Any
    ) -> Artifact:
        def measure(directory: Path) -> None:
            (directory / "evaluation.json").write_text("{}")
            if items is not None:
                write_items(directory / "items.parquet", items)

        judged = publish(
            store, "evaluation", evaluation, measure,
            inputs={"checkpoint": chain["checkpoint"].reference}, tables={"gates": gates} if gates else {},
            metrics={"eval/bits_per_byte": 2.4, "eval/needle/recall": 0.25},
        )  # fmt: skip
        settings = RegistrationConfig(**{"model_name": "tiny", "formats": ("int8", "q8_0"), **config})
        return build_stage(
            STAGE, settings, {**chain, "evaluation": judged}, store, log=logging.getLogger("test")
        ).artifact

    return make
