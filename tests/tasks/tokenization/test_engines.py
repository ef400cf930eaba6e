"""The fast engine gives the reference's ids, or the reference takes its place."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from infra.errors import ConfigurationError
from tasks.documents import DOCUMENTS, Document, documents_table, write_table
from tasks.text import TextBatch
from tasks.tokenization import STAGE, TokenizationConfig, load_tokenizer
from tasks.tokenization.encoding import require_equal_ids
from tasks.tokenization.engines import EngineFailed, FastEngine, close_engines, open_engines
from tasks.tokenization.tokenizer import train_tokenizer

END = "<|endoftext|>"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs; naïve café costs 3.50 €.",
    "def f(x):\n    return {'a': x ** 2}  # two  spaces\n\n\n",
    "漢字かな交じり文と한국어 и русский текст, ελληνικά.",
    "Bonjour, bonjour et bonsoir.",
] * 20
STYLES = ("gpt2", "llama3", "qwen", "sentencepiece")


def byte_level(style: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=style == "llama3"))
    if style == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = LLAMA_3 if style == "llama3" else LLAMA_3.replace("{1,3}", "")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if style == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[END, "<|pad|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokens = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=700, special_tokens=tokens, show_progress=False)
    )
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("tokenizers")
    paths = {}
    for style in STYLES:
        paths[style] = directory / f"{style}.json"
        tokenizer = sentencepiece() if style == "sentencepiece" else byte_level(style)
        paths[style].write_text(tokenizer.to_str())
    return paths


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_taken_and_gives_the_references_ids(files: dict[str, Path], style: str) -> None:
    engines = open_engines(files[style], END)
    assert engines.refusal == ""
    assert engines.fast is not None
    batch = TextBatch.from_texts([*TEXTS, f"a{END}b <think>", END, "", "\x00", "x" * 50_000, " " * 50_000])
    ours, theirs = engines.fast.encode(batch), engines.reference.encode(batch)
    assert [ids.tolist() for ids in ours] == [ids.tolist() for ids in theirs]
    assert engines.loaded.end_of_text not in np.concatenate(ours)
    assert [engines.fast.decode(ids) for ids in ours] == [text.encode() for text in batch.texts()]


ODD = st.sampled_from(
    [END, "<think>", "'s", "  ", "\r\n", "\x00", "\u0301", "👩‍👩‍👧", "▁", "١٢", "1234", "\u2028", "ſ"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.one_of(st.text(max_size=20), ODD), max_size=8).map("".join), max_size=5))
@pytest.mark.parametrize("style", STYLES)
def test_any_text_is_encoded_alike(files: dict[str, Path], style: str, texts: list[str]) -> None:
    engines = open_engines(files[style], END)
    assert engines.fast is not None
    require_equal_ids(engines.fast, engines.reference, TextBatch.from_texts(texts))


@pytest.mark.parametrize("repeated", ["a", " ", "ab cd "])
def test_ten_megabytes_in_one_document(files: dict[str, Path], repeated: str) -> None:
    engines = open_engines(files["gpt2"], END)
    assert engines.fast is not None
    text = repeated * (10_000_000 // len(repeated.encode()))
    (ids,) = engines.fast.encode(TextBatch.from_texts([text]))
    assert engines.fast.decode(ids) == text.encode()
    assert len(ids) * 4 < 10 * len(text.encode())


class Wrong:
    """A backend whose ids are off for one text only."""

    def __init__(self, backend: Any, only: bytes) -> None:
        self._backend, self._only = backend, only

    def encode(self, text: bytes) -> Any:
        ids = self._backend.encode(text)
        if self._only not in text or len(ids) < 2:
            return ids
        # The same text in other pieces: decoding cannot tell, only the reference can.
        letters = [self._backend.encode(text[place : place + 1]) for place in range(len(text))]
        return np.concatenate(letters)

    def decode(self, ids: Any) -> bytes:
        return bytes(self._backend.decode(ids))


class Lossy(Wrong):
    def encode(self, text: bytes) -> Any:
        return self._backend.encode(text.replace(self._only, b"?"))


def built(store: ArtifactStore, artifact: Artifact, tokenizer: Path, **settings: Any) -> Artifact:
    config = TokenizationConfig(
        **{"workers": 1, "minimum_validation_documents": 5, "tokenizer_path": tokenizer, **settings}
    )
    return build_stage(STAGE, config, {"documents": artifact}, store).artifact


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(train_tokenizer(TEXTS, TokenizationConfig(vocabulary_size=500)).to_str())
    return path


@pytest.mark.parametrize("backend", [Wrong, Lossy])
def test_a_shard_with_one_wrong_document_is_encoded_again(
    store: ArtifactStore,
    corpus: Callable[..., Artifact],
    tokenizer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    backend: type[Wrong],
) -> None:
    source = corpus()
    right = built(store, source, tokenizer_file)
    assert right.manifest.metrics["tokens/fallback_shards"] == 0
    opened = open_engines(right.path("tokenizer.json"), END)
    assert opened.fast is not None
    broken = FastEngine(backend(opened.fast.backend, b"Bonjour"))
    monkeypatch.setattr("tasks.tokenization.engines._fast_backend", lambda definition: broken.backend)
    close_engines()
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        again = built(other, source, tokenizer_file)
    assert again.manifest.content_checksum == right.manifest.content_checksum
    assert again.manifest.metrics["tokens/fallback_shards"] == 1
    assert "Bonjour" in caplog.text
    assert "`tokenizers` encoded 1 of 4 shards" in caplog.text
    rows = {row["Engine"]: row["Shards"] for row in again.manifest.tables["encoding"]}
    assert rows == {"gigatoken": 3, "tokenizers": 1}


def test_without_gigatoken_the_result_is_the_same_and_it_is_said(
    store: ArtifactStore,
    corpus: Callable[..., Artifact],
    tokenizer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = corpus()
    right = built(store, source, tokenizer_file)
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    other = ArtifactStore.open(str(tmp_path / "other"), tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        again = built(other, source, tokenizer_file)
    close_engines()
    assert again.manifest.content_checksum == right.manifest.content_checksum
    assert again.manifest.metrics["tokens/fallback_shards"] == 4
    assert caplog.text.count("gigatoken cannot be imported") == 1


def test_a_tokenizer_that_gigatoken_refuses_is_encoded_by_the_reference(tmp_path: Path) -> None:
    tokenizer = byte_level("gpt2")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    path = tmp_path / "odd.json"
    path.write_text(tokenizer.to_str())
    engines = open_engines(path, END)
    assert engines.fast is None
    assert engines.refusal.startswith("gigatoken fails: Unsupported pre_tokenizer")


def test_a_panic_in_the_library_is_a_failed_engine() -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        def encode(self, text: bytes) -> None:
            raise PanicException("index out of bounds")

    with pytest.raises(EngineFailed, match="index out of bounds"):
        FastEngine(Panicking()).encode(TextBatch.from_texts(["x"]))


def test_text_is_never_taken_for_the_end_of_a_document(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizationConfig(vocabulary_size=400, end_of_text="<|other|>"))
    tokenizer.add_tokens([AddedToken(END, special=False)])
    path = tmp_path / "open.json"
    path.write_text(tokenizer.to_str())
    with pytest.raises(ConfigurationError, match="ends a document at the text"):
        load_tokenizer(path, END)


def test_documents_that_a_normaliser_changes_are_counted(
    store: ArtifactStore, files: dict[str, Path], tmp_path: Path
) -> None:
    texts = ["café in one code point", "cafe\u0301 in two", *(f"plain {number}" for number in range(30))]

    def write(context: StageContext[StageConfig]) -> StageResult:
        rows = [Document(text, "mine", str(place), "CC0") for place, text in enumerate(texts)]
        write_table(context.directory / DOCUMENTS / "mine-00000.parquet", documents_table(rows))
        return StageResult()

    source = build_stage(Stage("texts", "raw_documents", 1, StageConfig, write), StageConfig(), {}, store).artifact
    manifest = built(store, source, files["qwen"]).manifest
    assert manifest.metrics["tokens/altered_documents"] == 1
    assert manifest.metrics["tokens/fallback_shards"] == 0
