"""The tokenizer: trained byte-level BPE with GPT-2's word pattern, or a tokenizer.json that passes the checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.tokenization.config import TokenizationConfig

#: Strings that a tokenizer must give back unchanged to be usable for text and code.
_PROBES = (
    "Plain words, punctuation; and 12,345.67 numbers.\n",
    "def f(x):\n\treturn  {'a': x**2}  # two  spaces\n",
    "naïve café — “quotes” … 漢字 😀\n",
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A checked tokenizer. `end_of_text` is its id for the end of a document."""

    tokenizer: Tokenizer
    end_of_text: int

    @cached_property
    def vocabulary_size(self) -> int:
        """One more than the largest id, special tokens included (a vocabulary may have gaps)."""
        return int(max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)) + 1


def train_tokenizer(texts: Iterable[str], config: TokenizationConfig) -> Tokenizer:
    """Train a byte-level BPE (Radford et al. 2019): every text can be encoded, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=[config.end_of_text, config.padding],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json atomically."""
    with atomic_file(path) as stream:
        stream.write(tokenizer.to_str(pretty=False).encode())


def load_tokenizer(path: Path, end_of_text: str) -> LoadedTokenizer:
    """Load and check a tokenizer.json.

    Raises ConfigurationError when it cannot be read, has no end-of-text token, takes text for
    that token, or changes text.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ConfigurationError(
            f"tokenizer '{path}' cannot be read: {error}.", "give a tokenizer.json of the `tokenizers` library."
        ) from error
    end = tokenizer.token_to_id(end_of_text)
    if end is None:
        raise ConfigurationError(
            f"tokenizer '{path}' has no token '{end_of_text}'.",
            "set `end_of_text` to the token it ends documents with.",
        )
    # Text that spells a special token is text: encoding it as the token would end a document early.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for probe in (*_PROBES, f"an {end_of_text} in text"):
        ids = encode_batch(tokenizer, [probe])[0]
        if end in ids:
            raise ConfigurationError(
                f"tokenizer '{path}' ends a document at the text '{end_of_text}'.",
                "mark that token as special in its `added_tokens`.",
            )
        if tokenizer.decode(ids, skip_special_tokens=False) != probe:
            raise ConfigurationError(
                f"tokenizer '{path}' does not give back the text {probe!r}.", "use a byte-level tokenizer."
            )
    return LoadedTokenizer(tokenizer, int(end))


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without added special tokens."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def resolve_tokenizer(config: TokenizationConfig) -> TokenizationConfig:
    """Pin the file at `tokenizer_path` by its checksum, so that the fingerprint changes with it.

    Raises ConfigurationError when the file does not exist or a given checksum does not match.
    """
    if config.tokenizer_path is None:
        return config
    try:
        checksum = checksum_file(config.tokenizer_path)
    except OSError as error:
        raise ConfigurationError(
            f"tokenizer_path '{config.tokenizer_path}' cannot be read: {error.strerror or error}.",
            "correct the path, or leave it out to train a tokenizer.",
        ) from error
    if config.tokenizer_checksum not in ("", checksum):
        raise ConfigurationError(
            f"tokenizer '{config.tokenizer_path}' does not match tokenizer_checksum {config.tokenizer_checksum}.",
            "restore the file, or remove `tokenizer_checksum` to accept the new one.",
        )
    return config.model_copy(update={"tokenizer_checksum": checksum})
