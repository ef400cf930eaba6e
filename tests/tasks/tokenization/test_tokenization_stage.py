"""The tokenization stage: repeatable, reversible, split by document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage, plan_fingerprint
from infra.errors import ConfigurationError
from tasks.documents import iterate_texts
from tasks.tokenization import (
    STAGE,
    TOKENIZER_FILE,
    TokenDataset,
    TokenizationConfig,
    load_tokenizer,
    resolve_tokenizer,
)


def built(store: ArtifactStore, artifact: Artifact, **settings: Any) -> Artifact:
    config = TokenizationConfig(**{"workers": 1, "vocabulary_size": 400, "minimum_validation_documents": 5, **settings})
    return build_stage(STAGE, resolve_tokenizer(config), {"documents": artifact}, store).artifact


def test_every_text_comes_back_from_one_split(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    source = corpus()
    tokens = built(store, source)
    loaded = load_tokenizer(tokens.path(TOKENIZER_FILE), "<|endoftext|>")
    decoded = []
    for split in ("train", "validation"):
        dataset = TokenDataset.open(tokens, split)
        for number in range(len(dataset)):
            ids = dataset.document(number).tolist()
            assert ids[-1] == loaded.end_of_text == 0
            decoded.append(loaded.tokenizer.decode(ids[:-1], skip_special_tokens=False))
            assert dataset.document_bytes[number] == len(decoded[-1].encode())
    assert sorted(decoded) == sorted(iterate_texts(source))
    assert len(TokenDataset.open(tokens, "validation")) == 5
    metrics = tokens.manifest.metrics
    assert metrics["tokens/total"] == metrics["tokens/train"] + metrics["tokens/validation"]
    assert metrics["tokens/vocabulary_size"] == 400


def test_worker_count_and_repetition_do_not_change_a_byte(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    source = corpus()
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other")
    assert built(store, source).manifest.content_checksum == built(other, source, workers=2).manifest.content_checksum


def test_sharding_does_not_change_the_split(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    held_out = []
    for shards in (1, 3):
        dataset = TokenDataset.open(built(store, corpus(shards=shards), validation_fraction=0.2), "validation")
        held_out.append(sorted(dataset.document_bytes.tolist()))
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) >= 5


def test_an_existing_tokenizer_is_taken_as_it_is(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    source = corpus()
    path = built(store, source).path(TOKENIZER_FILE)
    copy = tmp_path / "mine.json"
    copy.write_bytes(path.read_bytes())
    again = built(store, source, tokenizer_path=copy, vocabulary_size=999)
    assert again.path(TOKENIZER_FILE).read_bytes() == copy.read_bytes()
    before = plan_fingerprint(STAGE, resolve_tokenizer(TokenizationConfig(tokenizer_path=copy)), {})
    copy.write_bytes(path.read_bytes() + b" ")
    assert plan_fingerprint(STAGE, resolve_tokenizer(TokenizationConfig(tokenizer_path=copy)), {}) != before


def test_text_that_spells_a_special_token_stays_text(store: ArtifactStore, corpus: Callable[..., Artifact]) -> None:
    loaded = load_tokenizer(built(store, corpus()).path(TOKENIZER_FILE), "<|endoftext|>")
    ids = loaded.tokenizer.encode("a <|endoftext|> b").ids
    assert loaded.end_of_text not in ids
    assert loaded.tokenizer.decode(ids, skip_special_tokens=False) == "a <|endoftext|> b"


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "cannot be read"), ('{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}', "has no token")],
)
def test_an_unusable_tokenizer_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"bad\.json' {problem}"):
        load_tokenizer(path, "<|endoftext|>")


def test_a_missing_tokenizer_and_too_few_documents_are_refused(
    store: ArtifactStore, corpus: Callable[..., Artifact], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="tokenizer_path"):
        resolve_tokenizer(TokenizationConfig(tokenizer_path=tmp_path / "absent.json"))
    with pytest.raises(ConfigurationError, match="minimum_validation_documents"):
        built(store, corpus(), minimum_validation_documents=10_000)
