"""Every format from one call, opened again from its path."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model import save
from model.errors import CheckpointError, ConfigurationError
from model.exports.exporting import ExportFormat, export
from model.interface import open_model
from tests.support.trained_models import trained_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of 257 tokens with its tokenizer: rows of 256 weights fit K-quants."""
    directory = tmp_path_factory.mktemp("exported")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: index + 1 for index, letter in enumerate(alphabet[:255])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    save(trained_model("mamba2", "miniature-256"), directory / "checkpoint")
    return directory / "checkpoint"


@pytest.mark.parametrize("form", [form for form in ExportFormat if form is not ExportFormat.ONNX])
def test_an_export_opens_and_scores_alike(form: ExportFormat, checkpoint: Path, tmp_path: Path) -> None:
    name = "model.gguf" if form.startswith("gguf") else "model"
    output = export(checkpoint, form, tmp_path / name)
    original, exported = open_model(checkpoint), open_model(output)
    text = "the value of the argument"
    (expected,), (found,) = original.score([text]), exported.score([text])
    loose = form in (ExportFormat.INT8, ExportFormat.INT4, ExportFormat.GGUF_Q4_K_M, ExportFormat.GGUF_Q8_0)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=0.1 if loose else 2e-3)
    assert exported.generate([text])[0].new_tokens > 0


def test_an_existing_output_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(CheckpointError, match="exists: name another output"):
        export(checkpoint, "int8", tmp_path / "kept")


def test_a_form_that_cannot_hold_the_model_says_why(tmp_path: Path) -> None:
    save(trained_model("hgrn2"), tmp_path / "narrow")
    with pytest.raises(ConfigurationError, match="rows of 64 weights"):
        export(tmp_path / "narrow", "gguf-q4_k_m", tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()
