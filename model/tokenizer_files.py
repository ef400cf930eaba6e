"""The `tokenizer.json` beside a model: where it is, how it is read, what documents end with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from model.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
#: What documents end with, by the names tokenizers use; the first one present is taken.
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


class Separator(NamedTuple):
    """The token that ends a document, and so also opens one."""

    name: str
    token: int


def find_tokenizer(directory: Path) -> Path | None:
    """The `tokenizer.json` in a model's directory or one directory up, if there is one."""
    places = (directory / TOKENIZER_FILE, directory.parent / TOKENIZER_FILE)
    return next((place for place in places if place.is_file()), None)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file; raises CheckpointError when it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the tokenizer '{path}' cannot be read ({error}): give another") from error
    return parse_tokenizer(text, str(path))


def parse_tokenizer(text: str, origin: str) -> Tokenizer:
    """The tokenizer that `text` describes; `origin` names it in errors."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        raise CheckpointError(f"the tokenizer in '{origin}' cannot be read ({error}): replace it") from error
    # Text that spells a special token is text: encoding it as the token would end the document.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def separator_of(tokenizer: Tokenizer) -> Separator:
    """The first of `SEPARATORS` that the tokenizer has; raises CheckpointError when it has none."""
    for name in SEPARATORS:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return Separator(name, int(token))
    raise CheckpointError(f"the tokenizer has none of the separators {', '.join(SEPARATORS)}: add one to it")
