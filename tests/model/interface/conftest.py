"""One tiny model in every format, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model import HybridLM, preset, save
from model.exports.gguf import GGUFFormat, save_gguf
from model.quantization import save_int4, save_int8

SEPARATOR = "<|endoftext|>"


def byte_tokenizer() -> Tokenizer:
    """A token for every byte, and the separator as token 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {SEPARATOR: 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SEPARATOR])
    return tokenizer


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fp32/`, `int8/`, `int4/` and `q8_0.gguf` of one model, `tokenizer.json` beside them."""
    directory = tmp_path_factory.mktemp("formats")
    torch.manual_seed(0)
    config = preset("miniature").model_copy(update={"vocabulary_size": 512, "maximum_context": 1024})
    model = HybridLM(config).eval()
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    save(model, directory / "fp32")
    save_int8(model, directory / "int8")
    save_int4(model, directory / "int4")
    save_gguf(model, directory / "q8_0.gguf", GGUFFormat.Q8_0, tokenizer=directory / "tokenizer.json")
    return directory
