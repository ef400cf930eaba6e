"""The two encoding engines: `tokenizers`, whose ids define what is right, and gigatoken, which is some 60 times faster.

gigatoken (Rød, MIT licence; here its build with bounded caches) implements byte-level and SentencePiece BPE over bytes.
It is used where it can read the tokenizer.json and gives the reference's ids for every probe; everything it encodes
is decoded again, and a sample of it compared with the reference (`tasks.tokenization.encoding`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.text import TextBatch
from tasks.tokenization.probes import probe_texts, short_probe_texts
from tasks.tokenization.tokenizer import LoadedTokenizer, encode_batch, load_tokenizer

Ids = npt.NDArray[np.uint32]

#: Memory for pieces of text whose ids are known. At 32,768 tokens a million different pieces of text need 75 MB; with
#: 32 MB the cache is emptied again and again and repeated text is encoded at a third of the speed.
CACHE_BYTES = 128 << 20
_REFERENCE_DOCUMENTS = 256


class EngineFailed(Exception):
    """An engine could not encode, or not with the right result; carries what happened in words."""


class Engine(Protocol):
    """Text to token ids and back, one thread, without added special tokens."""

    @property
    def name(self) -> str:
        """What tables and messages call it."""

    def encode(self, batch: TextBatch) -> list[Ids]:
        """Token ids of each text; text that spells a special token stays text. Raises EngineFailed."""

    def decode(self, ids: Ids) -> bytes:
        """UTF-8 text of the ids."""


@dataclass(frozen=True)
class ReferenceEngine:
    """Hugging Face `tokenizers`: takes every tokenizer.json, and is right by definition."""

    loaded: LoadedTokenizer
    name: str = "tokenizers"

    def encode(self, batch: TextBatch) -> list[Ids]:
        """See `Engine`."""
        ids: list[Ids] = []
        with _one_thread():
            for start in range(0, len(batch), _REFERENCE_DOCUMENTS):
                texts = batch.slice(start, min(start + _REFERENCE_DOCUMENTS, len(batch))).texts()
                ids += [np.array(row, np.uint32) for row in encode_batch(self.loaded.tokenizer, texts)]
        return ids

    def decode(self, ids: Ids) -> bytes:
        """See `Engine`."""
        return str(self.loaded.tokenizer.decode(ids.tolist(), skip_special_tokens=False)).encode()


@dataclass(frozen=True)
class FastEngine:
    """gigatoken on bytes: no string per document, its cache of encoded pieces bounded by `CACHE_BYTES`."""

    backend: Any
    name: str = "gigatoken"

    def encode(self, batch: TextBatch) -> list[Ids]:
        """See `Engine`."""
        buffer, bounds = batch.buffer, batch.offsets.tolist()
        encode = self.backend.encode
        with _explained_failure():
            return [encode(buffer[start:stop].tobytes()) for start, stop in pairwise(bounds)]

    def decode(self, ids: Ids) -> bytes:
        """See `Engine`."""
        with _explained_failure():
            return bytes(self.backend.decode(ids))


@dataclass(frozen=True)
class Engines:
    """The reference and, unless `refusal` says why not, the fast engine of one tokenizer; probes to ask it again."""

    reference: ReferenceEngine
    fast: FastEngine | None
    probes: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def loaded(self) -> LoadedTokenizer:
        """The checked tokenizer."""
        return self.reference.loaded


def open_engines(path: Path, end_of_text: str) -> Engines:
    """Open a tokenizer.json with both engines (kept for the next shard, which then finds the cache filled).

    Raises ConfigurationError for a tokenizer that `load_tokenizer` refuses.
    """
    state = path.stat()
    return _opened(path, state.st_mtime_ns, state.st_size, end_of_text)


def close_engines() -> None:
    """Give the memory of opened engines back."""
    _opened.cache_clear()


@lru_cache(maxsize=1)
def _opened(path: Path, _modified_ns: int, _size_bytes: int, end_of_text: str) -> Engines:
    reference = ReferenceEngine(load_tokenizer(path, end_of_text))
    definition = path.read_bytes()
    try:
        fast = FastEngine(_fast_backend(definition))
        require_equal_ids(fast, reference, TextBatch.from_texts(probe_texts(definition)))
    except EngineFailed as error:
        return Engines(reference, None, refusal=str(error))
    return Engines(reference, fast, tuple(short_probe_texts(definition)))


def require_equal_ids(fast: Engine, reference: Engine, batch: TextBatch) -> None:
    """Raise EngineFailed naming the first text that the two engines encode differently."""
    for row, (ours, theirs) in enumerate(zip(fast.encode(batch), reference.encode(batch), strict=True)):
        if not np.array_equal(ours, theirs):
            raise EngineFailed(f"{fast.name} encodes {batch.text(row)[:60]!r} unlike {reference.name}")


def _fast_backend(definition: bytes) -> Any:
    """gigatoken's tokenizer for a tokenizer.json; raises EngineFailed when it is missing or refuses the file."""
    try:
        import gigatoken
    except ImportError as error:
        raise EngineFailed(f"gigatoken cannot be imported ({error})") from error
    with _explained_failure():
        gigatoken.set_max_cache_bytes(CACHE_BYTES)
        return gigatoken.Tokenizer.from_json(_without_special_tokens(definition)).backend


def _without_special_tokens(definition: bytes) -> str:
    """The tokenizer.json without what must not act on plain text: special tokens, padding, truncation, templates."""
    content = json.loads(definition)
    content["added_tokens"] = [token for token in content.get("added_tokens") or [] if not token.get("special")]
    return json.dumps({**content, "padding": None, "truncation": None, "post_processor": None})


@contextmanager
def _explained_failure() -> Iterator[None]:
    """Turn what the Rust library raises into EngineFailed; its panics are no `Exception`s."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            first_line = str(error).partition("\n")[0]
            raise EngineFailed(f"gigatoken fails: {first_line or type(error).__name__}") from error
        raise


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep `tokenizers` to this thread: the workers are the parallelism."""
    variable = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(variable)
    os.environ[variable] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
