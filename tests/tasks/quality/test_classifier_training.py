"""The command that trains a classifier: what it learns from, how it judges, what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.command_line import app
from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from tasks.quality.classifier_training import REPORT_SUFFIX, THRESHOLDS, Classifier, train_classifier
from tasks.text.batch import TextBatch
from tasks.text.fasttext import FastTextModel
from tasks.text.fasttext.training import TrainingSettings

SETTINGS = TrainingSettings(dimension=6, epochs=8, buckets=500)
CLEAN = ("river", "house", "stood", "meeting", "the", "garden", "report")
SPAM = ("buy", "offer", "free", "now", "the", "winner", "report")


def sentences(words: tuple[str, ...], number: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, 12)) for _ in range(number)]


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    clean = write_lines(tmp_path / "clean.jsonl", sentences(CLEAN, 150, 1))
    spam = tmp_path / "spam.parquet"
    pq.write_table(pa.table({"text": sentences(SPAM, 100, 2)}), spam)
    return clean, spam


def test_a_trained_model_finds_spam_it_has_not_seen(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "spam.bin"
    report = train_classifier(Classifier.SPAM, [files[0]], [files[1]], output, SETTINGS)
    assert report.positive_label == "spam"
    assert sum(report.trained.values()) + sum(report.held_out.values()) == 250
    middle = next(row for row in report.thresholds if row.threshold == 0.5)
    assert (middle.precision, middle.recall, middle.false_positive_rate) == (1.0, 1.0, 0.0)
    model = FastTextModel.load(output, report.model)
    unseen = TextBatch.from_texts([*sentences(SPAM, 20, 3), *sentences(CLEAN, 20, 4)])
    assert ((model.probability_of(unseen, "spam") > 0.5) == (np.arange(40) < 20)).all()


def test_the_report_lies_beside_the_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "quality.ftz"
    train_classifier(Classifier.QUALITY, [files[0]], [files[1]], output, SETTINGS, quantized=True)
    report = json.loads((tmp_path / ("quality.ftz" + REPORT_SUFFIX)).read_text())
    assert report["model"] == checksum_file(output)
    assert report["files"] == {str(path): checksum_file(path) for path in files}
    assert (report["classifier"], report["positive_label"], report["quantized"]) == ("quality", "good", True)
    assert [row["threshold"] for row in report["thresholds"]] == list(THRESHOLDS)


def test_figures_are_those_of_the_held_out_documents(tmp_path: Path) -> None:
    """Half of the spam looks clean: it cannot be found, and recall must say so."""
    texts = sentences(CLEAN, 900, 5)
    clean = write_lines(tmp_path / "clean.jsonl", texts[:600])
    spam = write_lines(tmp_path / "spam.jsonl", texts[600:] + sentences(SPAM, 300, 6))
    report = train_classifier(Classifier.SPAM, [clean], [spam], tmp_path / "m.bin", SETTINGS, held_out_share=0.5)
    high = next(row for row in report.thresholds if row.threshold == 0.9)
    assert high.recall == pytest.approx(0.5, abs=0.15)
    assert high.precision is not None
    assert high.precision > 0.9
    assert high.found == pytest.approx(high.recall * report.held_out["spam"] / high.precision, abs=0.5)


def test_unusable_documents_are_counted(tmp_path: Path) -> None:
    clean = write_lines(tmp_path / "clean.jsonl", [*sentences(CLEAN, 60, 1), "the same text", "the same text", "  "])
    with clean.open("a") as stream:
        stream.write("{broken\n")
    spam = write_lines(tmp_path / "spam.jsonl", [*sentences(SPAM, 60, 2), "the same text"])
    report = train_classifier(Classifier.SPAM, [clean], [spam], tmp_path / "m.bin", SETTINGS)
    assert report.left_out == {"defective": 1, "empty": 1, "repeated": 1, "both good and bad": 2}
    assert sum(report.trained.values()) + sum(report.held_out.values()) == 120


def test_what_is_held_out_does_not_depend_on_other_documents(files: tuple[Path, Path], tmp_path: Path) -> None:
    few = train_classifier(Classifier.SPAM, [files[0]], [files[1]], tmp_path / "a.bin", SETTINGS)
    more = write_lines(tmp_path / "more.jsonl", sentences(SPAM, 80, 9))
    many = train_classifier(Classifier.SPAM, [files[0]], [more, files[1]], tmp_path / "b.bin", SETTINGS)
    assert few.held_out["clean"] == many.held_out["clean"]
    again = train_classifier(Classifier.SPAM, [files[0]], [files[1]], tmp_path / "c.bin", SETTINGS)
    assert again.model == few.model


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_impossible_share_is_refused(share: float, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="held-out share"):
        train_classifier(Classifier.SPAM, [files[0]], [files[1]], tmp_path / "m.bin", SETTINGS, held_out_share=share)


def test_a_missing_class_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    empty = write_lines(tmp_path / "none.jsonl", [])
    with pytest.raises(ConfigurationError, match=r"no bad documents.*--bad"):
        train_classifier(Classifier.SPAM, [files[0]], [empty], tmp_path / "m.bin", SETTINGS)
    assert not (tmp_path / "m.bin").exists()


def test_the_command_trains_and_says_how_well(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "spam.bin"
    arguments = ["train-classifier", "spam", "--good", str(files[0]), "--bad", str(files[1]), "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--epochs", "3", "--dimension", "4", "--word-ngrams", "1"])
    assert result.exit_code == 0, result.output
    assert "precision" in result.output
    assert checksum_file(output) in result.output
    refused = CliRunner().invoke(app, ["train-classifier", "toxic", *arguments[2:]])
    assert isinstance(refused.exception, ConfigurationError)
