"""Model files: what is written is read, and nothing but a whole, consistent model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import random_model

from infra.errors import ConfigurationError
from tasks.text.batch import TextBatch
from tasks.text.fasttext import FastTextModel, read_model, write_model
from tasks.text.fasttext.format import DenseMatrix, Loss

KINDS: list[dict[str, Any]] = [
    {"buckets": 10, "word_ngrams": 2, "loss": Loss.HIERARCHICAL_SOFTMAX},
    {"is_quantized": True, "norms": True, "buckets": 30, "kept_buckets": 8, "longest_ngram": 3},
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_model_is_read_back(kind: dict[str, Any], tmp_path: Path) -> None:
    content = random_model(**kind)
    write_model(tmp_path / "model.bin", content)
    found = read_model(tmp_path / "model.bin")
    assert found.arguments == content.arguments
    assert (found.words, found.labels, found.label_counts) == (content.words, content.labels, content.label_counts)
    assert np.array_equal(found.inputs.dense(), content.inputs.dense())
    assert np.array_equal(found.outputs.dense(), content.outputs.dense())
    assert (found.pruned is None) == (content.pruned is None)
    if found.pruned is not None and content.pruned is not None:
        assert np.array_equal(found.pruned, content.pruned)


@pytest.mark.parametrize("kind", KINDS)
def test_every_shortened_file_is_refused(kind: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_model(path, random_model(**kind))
    data = path.read_bytes()
    for size in [*range(0, 200), *range(200, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ConfigurationError, match=r"model\.bin"):
            read_model(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("models") / f"intact{number}.bin" for number in range(len(KINDS))]
    for path, kind in zip(paths, KINDS, strict=True):
        write_model(path, random_model(**kind))
    return paths


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 1), place=st.integers(0, 400), value=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_refused_or_a_model(
    kind: int, place: int, value: bytes, intact: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    data = bytearray(intact[kind].read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)
    try:
        model = FastTextModel.load(path)
    except ConfigurationError as error:
        assert "model.bin" in str(error)
    else:
        found = model.predict(TextBatch.from_texts(["the word", ""]))
        assert ((found.probability >= 0) & (found.probability <= 1)).all()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"PK\x03\x04", "first bytes are not fastText's"),
        (4, b"\x63", "version is 99"),
        (8 + 4 * 7, b"\x02", "word vectors, not a classifier"),
        (8 + 4 * 6, b"\x09", "loss function 9 is unknown"),
        (8 + 4 * 5, b"\xff\xff\xff\x7f", "n-grams are longer"),
        (8 + 56, b"\xff\xff\xff\x7f", "dictionary claims"),
    ],
)
def test_the_error_says_what_is_wrong(place: int, value: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_model(path, random_model())
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=message):
        read_model(path)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    content = random_model()
    values = content.inputs.dense().copy()
    values[3, 2] = np.nan
    path = tmp_path / "model.bin"
    write_model(path, type(content)(**{**content.__dict__, "inputs": DenseMatrix(values)}))
    with pytest.raises(ConfigurationError, match="not finite"):
        FastTextModel.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.ftz"):
        FastTextModel.load(tmp_path / "absent.ftz")
