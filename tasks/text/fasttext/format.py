"""fastText's model files (.bin and .ftz, versions 11 and 12), read and written without fastText.

A file is numbers, names and matrices in a fixed order (`FastText::saveModel` in fastText 0.9.2): it holds
no code, so reading one from a stranger runs nothing. Every length in it is checked against the file's size
before it is believed; whatever is wrong ends in one ConfigurationError that names the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file

Floats = npt.NDArray[np.float32]

LABEL_PREFIX = "__label__"
END_OF_TEXT = b"</s>"
CENTROIDS = 256
_MAGIC = 793712314
_VERSIONS = (11, 12)
_NOT_PRUNED = -1
_WORD, _LABEL = 0, 1
#: Longer n-grams than these are in no real model and would cost time without bound.
_LONGEST_NGRAM = 100
#: fastText's count for nodes of the label tree that do not exist yet; no real count may reach it.
_MOST_TOKENS = 10**15
_MOST_BUCKETS = 1 << 25
#: Numbers in one matrix (8 GiB as float32).
_MOST_NUMBERS = 1 << 31


class Loss(IntEnum):
    """fastText's `loss_name`."""

    HIERARCHICAL_SOFTMAX = 1
    NEGATIVE_SAMPLING = 2
    SOFTMAX = 3
    ONE_VERSUS_ALL = 4


@dataclass(frozen=True)
class Arguments:
    """fastText's stored arguments, in the order of the file; those without effect on inference have its defaults."""

    dimension: int
    window: int = 5
    epochs: int = 5
    minimum_count: int = 1
    negatives: int = 5
    word_ngrams: int = 1
    loss: Loss = Loss.SOFTMAX
    model: int = 3
    buckets: int = 0
    shortest_ngram: int = 0
    longest_ngram: int = 0
    rate_update_tokens: int = 100
    sampling_threshold: float = 1e-4


_ARGUMENTS = struct.Struct("<12id")
_SUPERVISED = 3


@dataclass(frozen=True)
class DenseMatrix:
    """values: [rows, columns]."""

    values: Floats

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def dense(self) -> Floats:
        """[rows, columns]."""
        return self.values


@dataclass(frozen=True)
class QuantizedMatrix:
    """Product-quantized rows (Jégou et al. 2011, as in fastText.zip, Joulin et al. 2016).

    codes: [rows, parts] of 256 centroids each; centroids: [parts] arrays of [256, width]; where norms
    are quantized apart, norm_codes: [rows] and norms: [256].
    """

    codes: npt.NDArray[np.uint8]
    centroids: tuple[Floats, ...]
    norm_codes: npt.NDArray[np.uint8] | None = None
    norms: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), sum(part.shape[1] for part in self.centroids)

    def dense(self) -> Floats:
        """[rows, columns], each row put together from its centroids."""
        values = np.empty(self.shape, np.float32)
        column = 0
        for part, centroids in enumerate(self.centroids):
            width = centroids.shape[1]
            values[:, column : column + width] = centroids[self.codes[:, part]]
            column += width
        if self.norm_codes is not None and self.norms is not None:
            values *= self.norms[self.norm_codes][:, None]
        return values


Matrix = DenseMatrix | QuantizedMatrix


@dataclass(frozen=True)
class ModelFile:
    """What a supervised model's file says. Row i of `inputs` is word i's, later rows are the n-gram buckets'.

    words: [words]; labels: [labels] with their prefix; label_counts: [labels], descending in fastText's
    own files; pruned: [kept, 2] (bucket, place among the kept) where buckets were thrown out, else None.
    """

    arguments: Arguments
    words: Sequence[bytes]
    word_counts: Sequence[int]
    labels: Sequence[str]
    label_counts: Sequence[int]
    tokens: int
    pruned: npt.NDArray[np.int32] | None
    inputs: Matrix
    outputs: Matrix


def read_model(path: Path) -> ModelFile:
    """Read a supervised model; raises ConfigurationError for anything else."""
    try:
        with path.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ConfigurationError(
            f"fastText model '{path}' cannot be read: {error}.", "name an existing .bin or .ftz file."
        ) from error
    return _read(_Reader(path, data))


class _Reader:
    """Takes values off the file one after another and never reads past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        self._place = 0

    def damaged(self, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"'{self.path}' is not a usable fastText model: {problem} (near byte {self._place} of {len(self._data)}).",
            "name a supervised fastText model (.bin or .ftz), or fetch or train it again.",
        )

    def numbers(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        return layout.unpack_from(self._data, self._advance(layout.size, what))

    def number(self, kind: str, what: str) -> Any:
        return self.numbers(struct.Struct(f"<{kind}"), what)[0]

    def array(self, kind: type[np.generic], count: int, what: str) -> npt.NDArray[Any]:
        start = self._advance(count * np.dtype(kind).itemsize, what)
        return np.frombuffer(self._data, np.dtype(kind).newbyteorder("<"), count, start)

    def name(self) -> bytes:
        end = self._data.find(b"\0", self._place)
        if end < 0:
            raise self.damaged("a dictionary entry has no end")
        start, self._place = self._place, end + 1
        return self._data[start:end]

    def remaining(self) -> int:
        return len(self._data) - self._place

    def _advance(self, size: int, what: str) -> int:
        if size < 0 or size > self.remaining():
            raise self.damaged(f"it ends within its {what}")
        start = self._place
        self._place += size
        return start


_HEADER, _SIZES, _ENTRY, _SHAPE = (
    struct.Struct("<2i"),
    struct.Struct("<3i2q"),
    struct.Struct("<qb"),
    struct.Struct("<2q"),
)


def _read(reader: _Reader) -> ModelFile:
    magic, version = reader.numbers(_HEADER, "header")
    if magic != _MAGIC:
        raise reader.damaged("its first bytes are not fastText's")
    if version not in _VERSIONS:
        raise reader.damaged(f"its version is {version}, known are {_VERSIONS}")
    arguments = _read_arguments(reader, version)
    size, words, labels, tokens, pruned_size = reader.numbers(_SIZES, "dictionary sizes")
    # An entry takes at least ten bytes, so a false size is found before anything is allocated for it.
    if min(words, labels) < 0 or words + labels != size or size * (_ENTRY.size + 1) > reader.remaining():
        raise reader.damaged(f"its dictionary claims {size} entries, {words} words and {labels} labels")
    if labels == 0:
        raise reader.damaged("it has no labels")
    entries = [_read_entry(reader, _WORD if place < words else _LABEL) for place in range(size)]
    pruned = None
    if pruned_size != _NOT_PRUNED:
        pruned = reader.array(np.int32, 2 * pruned_size, "pruned buckets").reshape(-1, 2)
    quantized = bool(reader.number("b", "matrix kind"))
    inputs = _read_matrix(reader, quantized, "word vectors")
    outputs_quantized = bool(reader.number("b", "matrix kind"))
    outputs = _read_matrix(reader, quantized and outputs_quantized, "label vectors")
    model = ModelFile(
        arguments,
        [name for name, _ in entries[:words]],
        [count for _, count in entries[:words]],
        [name.decode("utf-8", "replace") for name, _ in entries[words:]],
        [count for _, count in entries[words:]],
        tokens,
        pruned,
        inputs,
        outputs,
    )
    _check(reader, model)
    return model


def _read_arguments(reader: _Reader, version: int) -> Arguments:
    values = list(reader.numbers(_ARGUMENTS, "arguments"))
    names = list(Arguments.__dataclass_fields__)
    found = dict(zip(names, values, strict=True))
    if found["model"] != _SUPERVISED:
        raise reader.damaged("it holds word vectors, not a classifier")
    if found["loss"] not in list(Loss):
        raise reader.damaged(f"its loss function {found['loss']} is unknown")
    if version == _VERSIONS[0]:
        found["longest_ngram"] = 0  # supervised models of version 11 ignored it
    arguments = Arguments(**{**found, "loss": Loss(found["loss"])})
    if arguments.dimension <= 0 or not 0 <= arguments.buckets <= _MOST_BUCKETS:
        raise reader.damaged(f"its dimension is {arguments.dimension} and it has {arguments.buckets} buckets")
    if max(arguments.word_ngrams, arguments.longest_ngram) > _LONGEST_NGRAM:
        raise reader.damaged(f"its n-grams are longer than {_LONGEST_NGRAM}")
    return arguments


def _read_entry(reader: _Reader, expected: int) -> tuple[bytes, int]:
    name = reader.name()
    count, kind = reader.numbers(_ENTRY, "dictionary")
    if kind != expected or count < 0:
        raise reader.damaged("its dictionary is not words followed by labels")
    return name, count


def _read_matrix(reader: _Reader, quantized: bool, what: str) -> Matrix:
    if not quantized:
        rows, columns = _checked_shape(reader, what)
        return DenseMatrix(reader.array(np.float32, rows * columns, what).reshape(rows, columns))
    has_norms = bool(reader.number("b", what))
    rows, columns = _checked_shape(reader, what)
    code_count = reader.number("i", what)
    codes = reader.array(np.uint8, code_count, what)
    centroids = _read_centroids(reader, columns, what)
    if code_count != rows * len(centroids):
        raise reader.damaged(f"its {what} have {code_count} codes for {rows} rows of {len(centroids)} parts")
    codes = codes.reshape(rows, len(centroids))
    if not has_norms:
        return QuantizedMatrix(codes, centroids)
    norm_codes = reader.array(np.uint8, rows, what)
    return QuantizedMatrix(codes, centroids, norm_codes, _read_centroids(reader, 1, what)[0].ravel())


def _checked_shape(reader: _Reader, what: str) -> tuple[int, int]:
    rows, columns = reader.numbers(_SHAPE, what)
    if rows < 0 or columns <= 0 or rows * columns > _MOST_NUMBERS:
        raise reader.damaged(f"its {what} claim {rows} rows of {columns} numbers")
    return rows, columns


def _read_centroids(reader: _Reader, columns: int, what: str) -> tuple[Floats, ...]:
    dimension, parts, width, last = reader.numbers(struct.Struct("<4i"), what)
    if dimension != columns or parts < 1 or min(width, last) < 1 or (parts - 1) * width + last != columns:
        raise reader.damaged(f"its {what} are cut into {parts} parts of {width} and {last}, not into {columns}")
    values = reader.array(np.float32, columns * CENTROIDS, what)
    found = []
    for part in range(parts):
        size = last if part == parts - 1 else width
        start = part * CENTROIDS * width
        found.append(values[start : start + CENTROIDS * size].reshape(CENTROIDS, size))
    return tuple(found)


def _check(reader: _Reader, model: ModelFile) -> None:
    arguments, rows = model.arguments, model.inputs.shape[0]
    buckets = arguments.buckets if model.pruned is None else len(model.pruned)
    uses_buckets = arguments.longest_ngram > 0 or arguments.word_ngrams > 1
    if rows < len(model.words) + (buckets if uses_buckets else 0):
        raise reader.damaged(f"it has {rows} vectors for {len(model.words)} words and {buckets} n-gram buckets")
    if model.inputs.shape[1] != arguments.dimension or model.outputs.shape[1] != arguments.dimension:
        raise reader.damaged(f"its matrices do not have its dimension {arguments.dimension}")
    if sum(model.label_counts) >= _MOST_TOKENS:
        raise reader.damaged("its label counts are impossible")
    if model.outputs.shape[0] != len(model.labels):
        raise reader.damaged(f"it has {model.outputs.shape[0]} label vectors for {len(model.labels)} labels")
    if model.pruned is not None and len(model.pruned):
        if not isinstance(model.inputs, QuantizedMatrix):
            raise reader.damaged("its buckets are pruned but its vectors are not quantized")
        low, high = model.pruned.min(axis=0), model.pruned.max(axis=0)
        if low.min() < 0 or high[0] >= arguments.buckets or high[1] >= len(model.pruned):
            raise reader.damaged("its pruned buckets lie outside its tables")


def write_model(path: Path, model: ModelFile) -> None:
    """Write a file that fastText itself loads (version 12), atomically."""
    with atomic_file(path) as stream:
        stream.write(_HEADER.pack(_MAGIC, _VERSIONS[-1]))
        values = [getattr(model.arguments, name) for name in Arguments.__dataclass_fields__]
        stream.write(_ARGUMENTS.pack(*values))
        words, labels = len(model.words), len(model.labels)
        pruned_size = _NOT_PRUNED if model.pruned is None else len(model.pruned)
        stream.write(_SIZES.pack(words + labels, words, labels, model.tokens, pruned_size))
        for name, count in zip(model.words, model.word_counts, strict=True):
            stream.write(name + b"\0" + _ENTRY.pack(count, _WORD))
        for label, count in zip(model.labels, model.label_counts, strict=True):
            stream.write(label.encode() + b"\0" + _ENTRY.pack(count, _LABEL))
        if model.pruned is not None:
            stream.write(model.pruned.astype("<i4").tobytes())
        for matrix in (model.inputs, model.outputs):
            stream.write(struct.pack("<b", isinstance(matrix, QuantizedMatrix)))
            _write_matrix(stream, matrix)


def _write_matrix(stream: BinaryIO, matrix: Matrix) -> None:
    rows, columns = matrix.shape
    if isinstance(matrix, DenseMatrix):
        stream.write(_SHAPE.pack(rows, columns))
        stream.write(np.ascontiguousarray(matrix.values, "<f4").data)
        return
    stream.write(struct.pack("<b", matrix.norms is not None) + _SHAPE.pack(rows, columns))
    stream.write(struct.pack("<i", matrix.codes.size) + matrix.codes.tobytes())
    _write_centroids(stream, matrix.centroids)
    if matrix.norm_codes is not None and matrix.norms is not None:
        stream.write(matrix.norm_codes.tobytes())
        _write_centroids(stream, (matrix.norms.reshape(CENTROIDS, 1),))


def _write_centroids(stream: BinaryIO, centroids: tuple[Floats, ...]) -> None:
    widths = [part.shape[1] for part in centroids]
    stream.write(struct.pack("<4i", sum(widths), len(widths), widths[0], widths[-1]))
    for part in centroids:
        stream.write(part.astype("<f4").tobytes())
