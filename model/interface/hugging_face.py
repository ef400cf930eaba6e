"""The contract over any causal language model that transformers has, for comparison with ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.errors import CheckpointError, GenerationError
from model.interface.contract import (
    GREEDY_SETTINGS,
    Completion,
    Continuation,
    ContinuationScore,
    FloatArray,
    Health,
    ModelFormat,
    ModelInfo,
    ModelInterface,
    Prompt,
    Settings,
    TextPiece,
    TextScore,
    measured_health,
    settings_for_each,
    text_score,
)
from model.interface.hugging_face_files import has_tokenizer, load_tokenizer, load_transformers, weights_files
from model.interface.hugging_face_reading import CausalModel, Feeding, RowReader
from model.interface.hugging_face_scoring import logit_tokens, score_continuations, score_rows
from model.interface.llama_cpp import TextCodec, TokenizerCodec
from model.interface.written_rows import RowWriter, WrittenRow
from model.tokenizer_files import find_tokenizer, read_tokenizer, separator_of

#: Prompts of one length written in one batch; the others wait until one ends.
_ROWS_AT_ONCE = 32
#: Names that configurations have for the longest row, and what is taken for models that name none, such as Mamba.
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length",
                   "context_length", "n_ctx")  # fmt: skip
_UNNAMED_CONTEXT = 32_768
#: A tokenizer without a limit says a number far above this.
_LARGEST_CONTEXT = 1 << 30


class TransformersCodec(TextCodec):
    """A tokenizer of transformers.

    Its `separator` is the beginning-of-text token where the tokenizer puts one before every text by itself (Llama 2:
    `<s>`), since such a model never saw a text without it; else the end-of-text token, which our models and GPT-2
    have between documents. A text ends with either, or with what the model's `generation_config.json` names.
    """

    def __init__(self, tokenizer: Any, stop_tokens: Collection[int], origin: Path) -> None:
        """Raises CheckpointError when the tokenizer has neither token."""
        self._tokenizer = tokenizer
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        opened = begin is not None and tokenizer.encode("a")[:1] == [begin]
        separator = begin if opened or end is None else end
        if separator is None:
            raise CheckpointError(
                f"the tokenizer in '{origin}' names neither bos_token nor eos_token: add one to tokenizer_config.json"
            )
        self.separator = int(separator)
        self.stop_tokens = frozenset({self.separator, *([] if end is None else [int(end)]), *stop_tokens})

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def spelling(self, token: int) -> str:
        """A token as it is in the vocabulary."""
        return str(self._tokenizer.convert_ids_to_tokens(token))


class HuggingFaceInterface(ModelInterface):
    """A model of transformers in this process, read in batches and written with our own sampling.

    Prompts of equal length are written as one batch, of different lengths in turns.
    """

    def __init__(self, model: Any, codec: TextCodec, file_bytes: int, maximum_context: int) -> None:
        """model: a `PreTrainedModel` with a head, on any device, in evaluation mode."""
        self.model = CausalModel(model)
        self.codec = codec
        self._file_bytes, self._maximum_context = file_bytes, maximum_context
        self._writer = RowWriter(lambda _: RowReader(self.model), codec.decode, codec.stop_tokens, _ROWS_AT_ONCE)

    @property
    def separator(self) -> int:
        """The token that opens a document; see `TransformersCodec`."""
        return self.codec.separator

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special."""
        return self.codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        return self.codec.decode(ids)

    def generate(self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS) -> list[Completion]:
        """The answers come in the prompts' order."""
        return self._writer.complete(self._rows(prompts, settings))

    def stream_batch(
        self, prompts: Sequence[Prompt], settings: Settings = GREEDY_SETTINGS, cancel: Callable[[], bool] | None = None
    ) -> Iterator[TextPiece]:
        """A piece is held back while its last character is incomplete, or may begin a stop text."""
        yield from self._writer.pieces(self._rows(prompts, settings), cancel)

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Each text is scored as a document of its own, its first token given the separator."""
        rows = [self._encode(text) for text in texts]
        self._check_lengths([len(row) for row in rows], "a text of")
        return [
            text_score(text, [self.codec.spelling(token) for token in row[1:]], scores.tolist())
            for text, row, scores in zip(texts, rows, self.score_tokens(rows), strict=True)
        ]

    def logits(self, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """What the model says after each token."""
        self._check([tokens], [len(tokens)])
        reader = RowReader(self.model)
        at_once = logit_tokens(self.model) if self.model.feeding is Feeding.PIECES else max(1, len(tokens))
        for start in range(0, len(tokens), at_once):
            yield reader.read_all(torch.tensor([list(tokens[start : start + at_once])]))[0].float().cpu().numpy()

    def score_tokens(self, rows: Sequence[Sequence[int]]) -> list[FloatArray]:
        """In batches of rows alike in length."""
        self._check(rows, [len(row) - 1 for row in rows])
        return score_rows(self.model, rows)

    def score_continuations(self, continuations: Sequence[Continuation]) -> list[ContinuationScore]:
        """In batches; a context with several continuations is read once."""
        if any(not one.context or not one.tokens for one in continuations):
            raise GenerationError("a continuation and its context must have at least one token each")
        self._check(
            [[*one.context, *one.tokens] for one in continuations],
            [len(one.context) + len(one.tokens) - 1 for one in continuations],
        )
        return score_continuations(self.model, continuations)

    def info(self) -> ModelInfo:
        """Format, size and shape; a layer's kind is the configuration's name for it, else the architecture's."""
        model = self.model.model
        config = model.config.get_text_config()
        count = int(getattr(config, "num_hidden_layers", 0))
        kinds = getattr(config, "layer_types", None) or [config.model_type] * count
        return ModelInfo(
            format=ModelFormat.HUGGING_FACE,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            vocabulary_size=self.model.vocabulary_size,
            maximum_context=self._maximum_context,
            layers=[str(kind) for kind in kinds],
            file_bytes=self._file_bytes,
        )

    def health(self) -> Health:
        """Predict one token after the separator."""
        return measured_health(self._predicts_finite)

    def _predicts_finite(self) -> bool:
        return bool(self.model.forward(torch.tensor([[self.separator]]), 1)[0].isfinite().all())

    def _rows(self, prompts: Sequence[Prompt], settings: Settings) -> list[WrittenRow]:
        each = settings_for_each(settings, len(prompts))
        ids = [self._encode(prompt) for prompt in prompts]
        if not all(ids):
            raise GenerationError("a prompt has no token: give the separator at least")
        lengths = [len(row) + one.maximum_new_tokens for row, one in zip(ids, each, strict=True)]
        self._check(ids, lengths, "prompt and new tokens make")
        return self._writer.rows(ids, each)

    def _check(self, rows: Sequence[Sequence[int]], lengths: Sequence[int], what: str = "a row of") -> None:
        self._check_lengths(lengths, what)
        for token in {token for row in rows for token in row}:
            if not 0 <= token < self.model.vocabulary_size:
                raise GenerationError(
                    f"token {token} is outside the model's vocabulary of {self.model.vocabulary_size}: the tokenizer "
                    "is another model's"
                )

    def _check_lengths(self, lengths: Sequence[int], what: str) -> None:
        if (longest := max(lengths, default=0)) > self._maximum_context:
            raise GenerationError(
                f"{what} {longest} tokens, over the model's maximum_context of {self._maximum_context}: shorten it"
            )


def open_in_transformers(
    directory: Path, tokenizer_path: Path | None = None, device: str = "cpu"
) -> HuggingFaceInterface:
    """Open a directory with `config.json`, safetensors and a tokenizer. Raises CheckpointError as its parts do.

    The tokenizer is the `tokenizer.json` given, else the directory's own, else a `tokenizer.json` one directory up.
    """
    model = load_transformers(directory, device)
    place = tokenizer_path or (None if has_tokenizer(directory) else find_tokenizer(directory))
    if place is not None:
        tokenizer = read_tokenizer(place)
        codec: TextCodec = TokenizerCodec(tokenizer, separator_of(tokenizer).token)
        limit = 0
    elif has_tokenizer(directory):
        theirs = load_tokenizer(directory)
        codec = TransformersCodec(theirs, _stop_tokens(model), directory)
        limit = int(min(theirs.model_max_length, _LARGEST_CONTEXT))
    else:
        raise CheckpointError(f"no tokenizer in '{directory}' or one directory up: give tokenizer_path")
    file_bytes = sum(file.stat().st_size for file in weights_files(directory))
    return HuggingFaceInterface(model, codec, file_bytes, _maximum_context(model.config.get_text_config(), limit))


def _maximum_context(config: Any, tokenizer_limit: int) -> int:
    """What the configuration says, else the tokenizer, else `_UNNAMED_CONTEXT`."""
    named = [getattr(config, name, None) for name in _CONTEXT_FIELDS]
    if 0 < tokenizer_limit < _LARGEST_CONTEXT:
        named.append(tokenizer_limit)
    return next((value for value in named if isinstance(value, int) and value > 0), _UNNAMED_CONTEXT)


def _stop_tokens(model: Any) -> list[int]:
    """What `generation_config.json` says ends a text."""
    ending = model.generation_config.eos_token_id if model.generation_config is not None else None
    return [] if ending is None else [ending] if isinstance(ending, int) else list(ending)
