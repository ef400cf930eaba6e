"""Run a GGUF file in llama.cpp: logits, generation, tokenizing."""

from __future__ import annotations

import ctypes
import os
import secrets
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from model.errors import CheckpointError, GenerationError
from model.generation.sampling import GREEDY, SamplingConfig, sample, uniform
from model.llama_cpp.library import Build, Library, open_library
from model.llama_cpp.structures import Batch

#: Tokens of one call of the library; the logits of one call are this many rows.
PIECE_TOKENS = 512
_NO_TOKENIZER = 0
_FLASH_ATTENTION_OFF = 0
_USUAL_PIECE_BYTES = 64


class KeyValueType(IntEnum):
    """In what type attention layers keep keys and values: the values are ggml's.

    F16 is llama.cpp's default, with flash attention. F32 is exact arithmetic for comparisons: it turns flash
    attention off, which would compute in half precision whatever the type (and move logits by some thousandths).
    """

    F32 = 0
    F16 = 1


@dataclass(frozen=True)
class Performance:
    """What one session has done so far."""

    prompt_tokens: int
    prompt_seconds: float
    new_tokens: int
    new_seconds: float

    @property
    def prompt_tokens_per_second(self) -> float:
        """Tokens read several at a time."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def new_tokens_per_second(self) -> float:
        """Tokens read one at a time, as generation does."""
        return self.new_tokens / self.new_seconds if self.new_seconds else 0.0


class Step(NamedTuple):
    """One new token, and the logits it was chosen from, [vocabulary]."""

    token: int
    logits: npt.NDArray[np.float32]


class LlamaModel:
    """The weights of one file. Sessions share them and may run in several threads, each in one at a time."""

    def __init__(self, path: Path | str, build: Build, threads: int | None = None) -> None:
        """Raises CheckpointError for a file the build cannot load, ModelError for a build that is not there.

        threads: of one session's arithmetic; by default one a core this process may use.
        """
        self.path = Path(path)
        self.build = build
        self.threads = threads or len(os.sched_getaffinity(0))
        self._library = open_library(build)
        self._functions = self._library.functions
        self._handle = _load(self._library, self.path)
        self._free = weakref.finalize(self, self._functions.llama_model_free, self._handle)
        self._vocabulary = self._functions.llama_model_get_vocab(self._handle)

    @property
    def vocabulary_size(self) -> int:
        """Columns of the logits."""
        return int(self._functions.llama_vocab_n_tokens(self._vocabulary))

    @property
    def maximum_context(self) -> int:
        """The longest sequence the file was made for."""
        return int(self._functions.llama_model_n_ctx_train(self._handle))

    @property
    def layer_count(self) -> int:
        """Blocks."""
        return int(self._functions.llama_model_n_layer(self._handle))

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return int(self._functions.llama_model_n_params(self._handle))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return int(self._functions.llama_model_size(self._handle))

    @property
    def has_tokenizer(self) -> bool:
        """Whether the file brings a tokenizer."""
        return bool(self._functions.llama_vocab_type(self._vocabulary) != _NO_TOKENIZER)

    @property
    def end_of_text(self) -> int | None:
        """The token that ends a document, if the file names one."""
        token = int(self._functions.llama_vocab_eos(self._vocabulary))
        return token if token >= 0 else None

    @property
    def beginning_of_text(self) -> int | None:
        """The token that opens a document, if the file names one."""
        token = int(self._functions.llama_vocab_bos(self._vocabulary))
        return token if token >= 0 else None

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text; None when absent. Arrays cannot be had this way."""
        length = self._functions.llama_model_meta_val_str(self._handle, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        self._functions.llama_model_meta_val_str(self._handle, key.encode(), buffer, length + 1)
        return buffer.value.decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether the model ends its text with this token."""
        return bool(self._functions.llama_vocab_is_eog(self._vocabulary, token))

    def spelling(self, token: int) -> str:
        """A token as it is spelled in the vocabulary."""
        return str(self._functions.llama_vocab_get_text(self._vocabulary, token).decode("utf-8", "replace"))

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text, nothing added. special: text that spells a control token is that token."""
        self._require_tokenizer()
        data = text.encode("utf-8")
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self._functions.llama_tokenize(self._vocabulary, data, len(data), ids, room, False, special)
        if count < 0:
            raise GenerationError(f"llama.cpp cannot tokenize a text of {len(data)} bytes into {room} tokens")
        return list(ids[:count])

    def detokenize(self, ids: Sequence[int], special: bool = False) -> bytes:
        """Bytes that tokens stand for, nothing tidied; control tokens are left out unless `special`."""
        self._require_tokenizer()
        return b"".join(self._piece(token, special) for token in ids)

    def _piece(self, token: int, special: bool) -> bytes:
        room = _USUAL_PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._functions.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def session(self, maximum_tokens: int, key_values: KeyValueType = KeyValueType.F16) -> LlamaSession:
        """A memory for one sequence of up to `maximum_tokens`; close it, or use it as a context manager.

        Raises GenerationError for a sequence longer than the model's context.
        """
        if maximum_tokens > self.maximum_context:
            raise GenerationError(
                f"prompt and new tokens make {maximum_tokens}, over the model's maximum_context of "
                f"{self.maximum_context}: shorten the prompt or lower maximum_new_tokens"
            )
        return LlamaSession(self, self._library, self._handle, maximum_tokens, key_values)

    def logits(self, tokens: Sequence[int], key_values: KeyValueType = KeyValueType.F16) -> npt.NDArray[np.float32]:
        """Logits after every token, [time, vocabulary]."""
        with self.session(len(tokens), key_values) as session:
            return np.concatenate(list(session.read_all(tokens)))

    def steps(
        self,
        prompt: Sequence[int],
        maximum_new_tokens: int,
        sampling: SamplingConfig = GREEDY,
        key_values: KeyValueType = KeyValueType.F16,
    ) -> Iterator[Step]:
        """New tokens one by one, each chosen as `model.generate` chooses it: the same seed draws the same."""
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        with self.session(len(prompt) + maximum_new_tokens, key_values) as session:
            logits = session.read(prompt)
            seen = torch.zeros(1, self.vocabulary_size, dtype=torch.bool)
            seen[0, list(prompt)] = True
            for position in range(maximum_new_tokens):
                draw = torch.tensor([uniform(seed, position)], dtype=torch.float64)
                token = int(sample(torch.from_numpy(logits).unsqueeze(0), sampling, draw, seen))
                yield Step(token, logits)
                if position + 1 < maximum_new_tokens:
                    seen[0, token] = True
                    logits = session.read([token])

    def generate(
        self,
        prompt: Sequence[int],
        maximum_new_tokens: int,
        sampling: SamplingConfig = GREEDY,
        stop_tokens: Collection[int] = (),
        key_values: KeyValueType = KeyValueType.F16,
    ) -> list[int]:
        """The new tokens, up to and including the first stop token."""
        tokens: list[int] = []
        for step in self.steps(prompt, maximum_new_tokens, sampling, key_values):
            tokens.append(step.token)
            if step.token in stop_tokens:
                break
        return tokens

    def _require_tokenizer(self) -> None:
        if not self.has_tokenizer:
            raise GenerationError(
                f"'{self.path}' has no tokenizer: export it with one, or give its tokenizer.json to open_model"
            )


class LlamaSession:
    """The memory of one sequence: keys, values and states. Not for several threads at once."""

    def __init__(
        self, model: LlamaModel, library: Library, model_handle: int, maximum_tokens: int, key_values: KeyValueType
    ) -> None:
        self._model = model  # keeps the weights alive
        self._functions = library.functions
        self._vocabulary_size = model.vocabulary_size
        parameters = library.functions.llama_context_default_params()
        parameters.n_ctx = max(1, maximum_tokens)
        parameters.n_batch = parameters.n_ubatch = min(PIECE_TOKENS, max(1, maximum_tokens))
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = 0
        parameters.n_threads = parameters.n_threads_batch = model.threads
        parameters.type_k = parameters.type_v = int(key_values)
        if key_values is KeyValueType.F32:
            parameters.flash_attn_type = _FLASH_ATTENTION_OFF
        library.forget_messages()
        self._handle = library.functions.llama_init_from_model(model_handle, parameters)
        if not self._handle:
            raise GenerationError(
                f"llama.cpp gave no memory for {maximum_tokens} tokens of '{model.path}': {library.complaint()}"
            )
        self._free = weakref.finalize(self, library.functions.llama_free, self._handle)
        self._prompt_tokens, self._prompt_seconds, self._new_tokens, self._new_seconds = 0, 0.0, 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; the session cannot be used any more."""
        self._free()

    def read(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the sequence; the logits after the last token, [vocabulary]."""
        if not tokens:
            raise GenerationError("an empty prompt: give at least one token, such as a document separator")
        for start in range(0, len(tokens), PIECE_TOKENS):
            logits = self._decode(tokens[start : start + PIECE_TOKENS], every=False)
        last: npt.NDArray[np.float32] = logits[-1]
        return last

    def read_all(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """Continue the sequence; the logits after every token, in pieces [up to 512, vocabulary]."""
        for start in range(0, len(tokens), PIECE_TOKENS):
            yield self._decode(tokens[start : start + PIECE_TOKENS], every=True)

    def restart(self) -> None:
        """Forget the sequence."""
        self._functions.llama_memory_clear(self._functions.llama_get_memory(self._handle), True)

    def remember(self) -> bytes:
        """A copy of the sequence so far: keys, values, states."""
        buffer = ctypes.create_string_buffer(self.memory_bytes())
        written = self._functions.llama_state_seq_get_data(self._handle, buffer, len(buffer), 0)
        return buffer.raw[:written]

    def return_to(self, remembered: bytes) -> None:
        """Go back to what `remember` copied in a session of this model. Raises GenerationError for other bytes."""
        self.restart()
        if not self._functions.llama_state_seq_set_data(self._handle, remembered, len(remembered), 0):
            raise GenerationError("llama.cpp does not take the remembered sequence back: it is of another model")

    def memory_bytes(self) -> int:
        """Bytes that the sequence so far needs: keys, values, states."""
        return int(self._functions.llama_state_seq_get_size(self._handle, 0))

    def performance(self) -> Performance:
        """Tokens and seconds so far."""
        return Performance(self._prompt_tokens, self._prompt_seconds, self._new_tokens, self._new_seconds)

    def _decode(self, tokens: Sequence[int], every: bool) -> npt.NDArray[np.float32]:
        """Logits [time or 1, vocabulary] of one call."""
        if not self._free.alive:
            raise GenerationError("the session is closed: open another one")
        count = len(tokens)
        highest, lowest = max(tokens), min(tokens)
        if lowest < 0 or highest >= self._vocabulary_size:
            raise GenerationError(
                f"token {lowest if lowest < 0 else highest} is outside the vocabulary of {self._vocabulary_size}"
            )
        ids = (ctypes.c_int32 * count)(*tokens)
        wanted = (ctypes.c_int8 * count)(*([1] * count if every else [0] * (count - 1) + [1]))
        started = time.perf_counter()
        status = self._functions.llama_decode(self._handle, Batch(n_tokens=count, token=ids, logits=wanted))
        if status:
            reason = "the sequence is longer than the session" if status == 1 else f"error {status}"
            raise GenerationError(f"llama.cpp did not read {count} tokens: {reason}")
        rows = count if every else 1
        pointer = self._functions.llama_get_logits(self._handle)
        logits = np.ctypeslib.as_array(pointer, shape=(rows, self._vocabulary_size)).copy()
        self._count(count, time.perf_counter() - started)
        return logits

    def _count(self, tokens: int, seconds: float) -> None:
        if tokens > 1:
            self._prompt_tokens += tokens
            self._prompt_seconds += seconds
        else:
            self._new_tokens += 1
            self._new_seconds += seconds


def _load(library: Library, path: Path) -> int:
    if not path.is_file():
        raise CheckpointError(f"no GGUF file at '{path}': export one with save_gguf")
    library.forget_messages()
    handle = library.functions.llama_model_load_from_file(
        str(path).encode(), library.functions.llama_model_default_params()
    )
    if not handle:
        raise CheckpointError(f"llama.cpp cannot load '{path}': {library.complaint()}")
    return int(handle)
