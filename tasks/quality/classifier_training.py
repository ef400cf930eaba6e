"""Training a quality or spam classifier from files of good and of bad documents, and judging it.

The result is a fastText model, usable wherever a quality score or a spam score is taken from a model, and
beside it a report of how it does on documents it was not trained on. The same files and settings give the
same model, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import xxhash

from infra.errors import ConfigurationError
from infra.storage.checksum import checksum_file
from infra.storage.local import atomic_file
from tasks.download.formats import FieldChoice, read_file
from tasks.text.batch import TextBatch
from tasks.text.fasttext import FastTextModel, write_model
from tasks.text.fasttext.quantization import quantize
from tasks.text.fasttext.training import TrainingSettings, train

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
REPORT_SUFFIX = ".report.json"
_SHARE_BITS = 32


class Classifier(StrEnum):
    """What can be trained."""

    QUALITY = "quality"
    SPAM = "spam"


#: Labels of good and of bad documents; the second value says which one is to be found.
_LABELS = {Classifier.QUALITY: (("good", "bad"), "good"), Classifier.SPAM: (("clean", "spam"), "spam")}


@dataclass(frozen=True)
class AtThreshold:
    """Held-out documents at one threshold; `found` have at least this probability of the positive label."""

    threshold: float
    found: int
    precision: float | None
    recall: float
    false_positive_rate: float


@dataclass(frozen=True)
class ClassifierReport:
    """What was trained on what, and how well it does.

    trained, held_out: documents by label; left_out: documents that were not used, by reason;
    files, model: checksums.
    """

    classifier: Classifier
    positive_label: str
    model: str
    quantized: bool
    settings: TrainingSettings
    held_out_share: float
    trained: dict[str, int]
    held_out: dict[str, int]
    left_out: dict[str, int]
    files: dict[str, str]
    thresholds: tuple[AtThreshold, ...]


@dataclass(frozen=True)
class _Examples:
    """texts and targets (0 good, 1 bad): [documents]; is_held_out: [documents]."""

    batch: TextBatch
    targets: npt.NDArray[np.int64]
    is_held_out: npt.NDArray[np.bool_]
    left_out: dict[str, int]


def train_classifier(
    classifier: Classifier,
    good: Sequence[Path],
    bad: Sequence[Path],
    output: Path,
    settings: TrainingSettings,
    *,
    held_out_share: float = 0.2,
    fields: FieldChoice | None = None,
    quantized: bool = False,
) -> ClassifierReport:
    """Train, write the model to `output` and the report beside it.

    Which documents are held out depends on their texts only. What is judged is the file as written. Raises
    ConfigurationError when a class has no documents to learn from or to judge by.
    """
    if not 0.0 < held_out_share < 1.0:
        raise ConfigurationError(f"the held-out share is {held_out_share}.", "choose one between 0 and 1, such as 0.2.")
    labels, positive = _LABELS[classifier]
    examples = _read_examples((good, bad), held_out_share, fields or FieldChoice())
    for part, chosen in (("train on", ~examples.is_held_out), ("hold out", examples.is_held_out)):
        for target, name in enumerate(("good", "bad")):
            if not (examples.targets[chosen] == target).any():
                raise ConfigurationError(
                    f"there are no {name} documents to {part} ({len(examples.targets)} documents in all).",
                    f"give more files with --{name}.",
                )
    learned = np.flatnonzero(~examples.is_held_out)
    model = train(examples.batch.take(learned), examples.targets[learned], labels, settings)
    write_model(output, quantize(model) if quantized else model)
    report = ClassifierReport(
        classifier,
        positive,
        checksum_file(output),
        quantized,
        settings,
        held_out_share,
        _by_label(examples.targets[~examples.is_held_out], labels),
        _by_label(examples.targets[examples.is_held_out], labels),
        examples.left_out,
        {str(path): checksum_file(path) for path in (*good, *bad)},
        _judge(FastTextModel.load(output), examples, labels, positive),
    )
    with atomic_file(output.with_name(output.name + REPORT_SUFFIX)) as stream:
        stream.write(json.dumps(asdict(report), indent=2).encode())
    return report


def _read_examples(files: tuple[Sequence[Path], Sequence[Path]], share: float, fields: FieldChoice) -> _Examples:
    """All usable documents once; one that is both good and bad is neither."""
    texts: list[bytes] = []
    target_of: dict[bytes, int] = {}
    place_of: dict[bytes, int] = {}
    contradictory: set[bytes] = set()
    left_out = {"defective": 0, "empty": 0, "repeated": 0, "both good and bad": 0}
    for target, paths in enumerate(files):
        for path in paths:
            for record in read_file(path, str(path), fields):
                text = record.text.encode("utf-8", "replace").strip()
                if record.defect is not None or not text:
                    left_out["empty" if record.defect is None else "defective"] += 1
                    continue
                digest = xxhash.xxh3_128_digest(text)
                if target_of.setdefault(digest, target) != target:
                    contradictory.add(digest)
                    left_out["both good and bad"] += 1
                elif digest in place_of:
                    left_out["repeated"] += 1
                else:
                    place_of[digest] = len(texts)
                    texts.append(text)
    left_out["both good and bad"] += len(contradictory)
    digests = [digest for digest in place_of if digest not in contradictory]
    chosen = pa.array([texts[place_of[digest]] for digest in digests], pa.large_binary())
    parts = np.array([int.from_bytes(digest[:4], "big") for digest in digests], np.int64)
    return _Examples(
        TextBatch.from_arrow(chosen),
        np.array([target_of[digest] for digest in digests], np.int64),
        parts < share * (1 << _SHARE_BITS),
        left_out,
    )


def _by_label(targets: npt.NDArray[np.int64], labels: tuple[str, str]) -> dict[str, int]:
    counts = np.bincount(targets, minlength=len(labels)).tolist()
    return dict(zip(labels, counts, strict=True))


def _judge(
    model: FastTextModel, examples: _Examples, labels: tuple[str, str], positive: str
) -> tuple[AtThreshold, ...]:
    rows = np.flatnonzero(examples.is_held_out)
    probability = model.probability_of(examples.batch.take(rows), positive)
    is_positive = examples.targets[rows] == labels.index(positive)
    return tuple(_at(threshold, probability, is_positive) for threshold in THRESHOLDS)


def _at(threshold: float, probability: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> AtThreshold:
    found = probability >= threshold
    hits = int((found & is_positive).sum())
    return AtThreshold(
        threshold,
        int(found.sum()),
        round(hits / int(found.sum()), 4) if found.any() else None,
        round(hits / int(is_positive.sum()), 4),
        round(int((found & ~is_positive).sum()) / int((~is_positive).sum()), 4),
    )
