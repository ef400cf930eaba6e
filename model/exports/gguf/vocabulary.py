"""The tokenizer inside a GGUF file: llama.cpp's `gpt2` byte-level BPE, and the original `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, Keys, TokenType

from model.errors import ConfigurationError

_LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"

#: llama.cpp wants a list of merges, and the `gguf` library writes no empty one: no byte is spelled as this letter.
_IMPOSSIBLE_MERGE = "\N{SYMBOL FOR NULL} \N{SYMBOL FOR NULL}"


def add_vocabulary_size(writer: GGUFWriter, vocabulary_size: int) -> None:
    """Declare a file without tokenizer."""
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(vocabulary_size)


def add_tokenizer(writer: GGUFWriter, path: Path, vocabulary_size: int, end_of_text: int | None) -> None:
    """Add the tokenizer of `path`, padded with unused tokens to the model's vocabulary.

    end_of_text: the token that ends a document and so opens the next: end and beginning of text alike.

    Raises ConfigurationError when the file is not a byte-level BPE that llama.cpp has a name for.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["model"].get("type") != "BPE":
        raise ConfigurationError(
            f"tokenizer '{path}' is a {document['model'].get('type')} model; GGUF export knows byte-level BPE: "
            "train one, or export without a tokenizer"
        )
    if document.get("normalizer") is not None:
        raise ConfigurationError(
            f"tokenizer '{path}' normalizes text ({document['normalizer'].get('type')}), which llama.cpp's byte-level "
            "BPE does not: train without a normalizer, or export without a tokenizer"
        )
    tokens, types = _tokens(document, vocabulary_size, path)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(document, path))
    writer.add_vocab_size(vocabulary_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = document["model"]["merges"]
    spelled = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    writer.add_token_merges(spelled or [_IMPOSSIBLE_MERGE])
    if end_of_text is not None:
        writer.add_bos_token_id(end_of_text)
        writer.add_eos_token_id(end_of_text)
    writer.add_add_bos_token(end_of_text is not None)
    writer.add_string(Keys.Tokenizer.HF_JSON, json.dumps(document, ensure_ascii=False))


def pre_tokenizer_name(document: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for the way this tokenizer splits text before BPE."""
    stage = document.get("pre_tokenizer") or {}
    stages = stage["pretokenizers"] if stage.get("type") == "Sequence" else [stage]
    kinds = [part.get("type") for part in stages]
    if kinds == ["ByteLevel"] and stages[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and stages[0].get("individual_digits"):
        return "starcoder"
    if kinds == ["Split", "ByteLevel"] and stages[0]["pattern"].get("Regex", "").startswith(_LLAMA3_SPLIT):
        return "llama-bpe"
    raise ConfigurationError(
        f"tokenizer '{path}' splits text with {kinds}, for which we know no llama.cpp name: train with a plain "
        "ByteLevel pre-tokenizer, or export without a tokenizer"
    )


def _tokens(document: dict[str, Any], vocabulary_size: int, path: Path) -> tuple[list[str], list[TokenType]]:
    """Every token and its type, by id."""
    ordinary = {index: token for token, index in document["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in document.get("added_tokens", [])}
    highest = max([*ordinary, *added])
    if highest >= vocabulary_size:
        raise ConfigurationError(
            f"tokenizer '{path}' has token id {highest}, but vocabulary_size is {vocabulary_size}: "
            "pass the tokenizer the model was trained with"
        )
    tokens, types = [], []
    for index in range(vocabulary_size):
        if index in added:
            tokens.append(added[index]["content"])
            types.append(TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED)
        elif index in ordinary:
            tokens.append(ordinary[index])
            types.append(TokenType.NORMAL)
        else:
            tokens.append(f"[PAD{index}]")
            types.append(TokenType.UNUSED)
    return tokens, types
