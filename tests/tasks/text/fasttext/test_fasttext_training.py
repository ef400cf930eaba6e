"""Trained files: the same from both engines, read by fastText, and they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fasttext
import numpy as np
import pytest

from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tasks.text.fasttext import FastTextModel, write_model
from tasks.text.fasttext.quantization import quantize
from tasks.text.fasttext.training import TrainingSettings, _exponential, train

SETTINGS = TrainingSettings(dimension=6, epochs=4, buckets=500, shortest_ngram=2, longest_ngram=3, seed=7)
GOOD = ("river", "house", "stood", "and", "the", "garden")
BAD = ("buy", "offer", "free", "now", "the", "and")


def made_up(number: int, seed: int) -> tuple[list[str], np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = np.arange(number) % 2
    return [" ".join(generator.choice(BAD if target else GOOD, 8)) for target in targets], targets


def trained(path: Path, settings: TrainingSettings = SETTINGS, seed: int = 1) -> bytes:
    texts, targets = made_up(120, seed)
    write_model(path, train(TextBatch.from_texts(texts), targets, ("good", "bad"), settings))
    return path.read_bytes()


def test_both_engines_write_the_same_file(tmp_path: Path) -> None:
    files = []
    for engine in ("numba", "numpy"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_VARIABLE, engine)
            files.append(trained(tmp_path / f"{engine}.bin"))
    assert files[0] == files[1]


def test_the_seed_decides(tmp_path: Path) -> None:
    first = trained(tmp_path / "1.bin")
    assert trained(tmp_path / "2.bin") == first
    assert trained(tmp_path / "3.bin", replace(SETTINGS, seed=8)) != first


@pytest.mark.parametrize("quantized", [False, True])
def test_fasttext_reads_the_file_and_predicts_as_we_do(quantized: bool, tmp_path: Path) -> None:
    texts, targets = made_up(200, 1)
    model = train(TextBatch.from_texts(texts), targets, ("good", "bad"), SETTINGS)
    path = tmp_path / "model.bin"
    write_model(path, quantize(model) if quantized else model)
    unseen, truth = made_up(60, 2)
    ours = FastTextModel.load(path).probability_of(TextBatch.from_texts(unseen), "bad")
    theirs = fasttext.load_model(str(path))
    for text, probability in zip(unseen, ours, strict=True):
        found = {label: p for p, label in theirs.f.predict(text + "\n", -1, 0.0, "strict")}
        assert probability == pytest.approx(min(found["__label__bad"], 1.0), abs=2e-5)
    assert ((ours > 0.5) == (truth == 1)).all()


def test_quantization_keeps_the_probabilities(tmp_path: Path) -> None:
    texts, targets = made_up(400, 3)
    batch = TextBatch.from_texts(texts)
    model = train(batch, targets, ("good", "bad"), replace(SETTINGS, dimension=8, epochs=10))
    dense, small = FastTextModel(model), FastTextModel(quantize(model))
    assert np.abs(dense.probability_of(batch, "bad") - small.probability_of(batch, "bad")).max() < 0.05
    write_model(tmp_path / "dense.bin", model)
    write_model(tmp_path / "small.ftz", quantize(model))
    assert (tmp_path / "small.ftz").stat().st_size < (tmp_path / "dense.bin").stat().st_size


def test_labels_are_stored_frequent_first() -> None:
    texts, targets = made_up(30, 4)
    targets[:] = [0, 1, 1] * 10
    model = train(TextBatch.from_texts(texts), targets, ("good", "bad"), SETTINGS)
    assert (model.labels, model.label_counts) == (["__label__bad", "__label__good"], [20, 10])


def test_words_of_text_are_never_labels_or_the_end_mark() -> None:
    texts = ["__label__good </s> river __label__x\0house"] * 4 + ["buy buy"] * 4
    model = train(TextBatch.from_texts(texts), np.arange(8) // 4, ("good", "bad"), SETTINGS)
    assert sorted(model.words) == [b"</s>", b"buy", b"house", b"river"]
    assert model.word_counts[list(model.words).index(b"</s>")] == 8


def test_the_exponential_is_exact() -> None:
    values = np.linspace(-60.0, 0.0, 5_000)
    found = np.array([_exponential(value) for value in values])
    assert np.allclose(found, np.exp(values), rtol=1e-11, atol=0)
