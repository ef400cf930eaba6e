"""The tokenizer beside an exported model, as `AutoTokenizer` loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer

from model.config import ModelConfig
from model.errors import ConfigurationError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def write_tokenizer(tokenizer_json: Path, directory: Path, config: ModelConfig, end_of_text: str) -> int | None:
    """Write both files; returns the id of `end_of_text`, None where the tokenizer has no such token.

    Raises ConfigurationError when the file is no tokenizer, or has ids outside the model's vocabulary.
    """
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    # The library raises bare Exception for whatever is wrong with a file.
    except Exception as error:
        raise ConfigurationError(f"tokenizer_json={tokenizer_json} cannot be read ({error}): replace it") from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= config.vocabulary_size:
        raise ConfigurationError(
            f"tokenizer_json={tokenizer_json} has token id {largest}, but vocabulary_size is "
            f"{config.vocabulary_size}: give the tokenizer the model was trained with"
        )
    identifier: int | None = tokenizer.token_to_id(end_of_text)
    settings: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.maximum_context,
        "clean_up_tokenization_spaces": False,
    }
    if identifier is not None:
        settings |= {"bos_token": end_of_text, "eos_token": end_of_text}
    shutil.copyfile(tokenizer_json, directory / TOKENIZER_FILE)
    (directory / TOKENIZER_CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return identifier
