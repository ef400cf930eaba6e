"""Profanity and sales phrases beside personal data, in one pass; literature is not removed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quality.config import PiiKind, PiiPolicy, ProfanityConfig
from tasks.quality.phrases import profane_words, spam_phrases
from tasks.quality.scan import ScanResult, mask, scan
from tasks.text import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tasks.text.hashing import contains
from tasks.text.words import hash_vocabulary, hash_words, sum_by_text

#: Melville, Moby-Dick (1851), chapters 41, 94 and 81; Shakespeare, Hamlet and King Lear; Dickens; the King James Bible.
LITERATURE = (
    "It was the whiteness of the whale that above all things appalled me. Moby Dick moves you to murder, for "
    "Moby Dick was now again hunted by them all; and of the great sperm whale they spoke, for the Sperm Whale "
    "was to them a king.",
    "Squeeze! squeeze! squeeze! all the morning long; I squeezed that sperm till I myself almost melted into "
    "it; I squeezed that sperm till a strange sort of insanity came over me; and I found myself unwittingly "
    "squeezing my co-laborers' hands in it, mistaking their hands for the gentle globules.",
    "The bird of dawning singeth all night long, and when the cock crew it started like a guilty thing upon a "
    "fearful summons. I have heard the cock, that is the trumpet to the morn, doth with his lofty and shrill-"
    "sounding throat awake the god of day.",
    "Why bastard? wherefore base? When my dimensions are as well compact, my mind as generous, and my shape as"
    " true, as honest madam's issue? Why brand they us with base? with baseness? bastardy? base, base? Now, "
    "gods, stand up for those whom the law will not own, and let them stand with us against all that custom "
    "and the curiosity of nations would deprive us of, for we too are men and shall be heard in our turn "
    "before this court.",
    "'If the law supposes that,' said Mr. Bumble, squeezing his hat emphatically in both hands, 'the law is a "
    "ass, a idiot. If that is the eye of the law, the law is a bachelor; and the worst I wish the law is, that"
    " his eye may be opened by experience, by experience.'",
    "And Abraham rose up early in the morning, and saddled his ass, and took two of his young men with him, "
    "and Isaac his son, and clave the wood for the burnt offering, and rose up, and went unto the place of "
    "which God had told him.",
)
_FILTH = "what the fuck is this shit, you fucking asshole, go fuck your shitty self. "


def too_profane(result: ScanResult, batch: TextBatch) -> list[bool]:
    limits = ProfanityConfig()
    words = np.maximum(np.diff(hash_words(batch).first), 1)
    dense = result.profane_words / words > limits.maximum_share
    return ((result.profane_words >= limits.minimum_hits) & dense).tolist()


@pytest.fixture(params=["", "numpy"], ids=["hyperscan", "re"])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, request.param)


def test_literature_stays_and_filth_goes(either_engine: None) -> None:
    batch = TextBatch.from_texts([*LITERATURE, "\n".join(LITERATURE), _FILTH * 5])
    assert too_profane(scan(batch), batch) == [False] * (len(LITERATURE) + 1) + [True]


def test_single_hits_count_but_do_not_remove(either_engine: None) -> None:
    page = LITERATURE[4] * 12 + " Bullshit!"
    batch = TextBatch.from_texts([page])
    result = scan(batch)
    assert result.profane_words.tolist() == [1]
    assert too_profane(result, batch) == [False]


def test_words_count_alone_whatever_their_case_and_script(either_engine: None) -> None:
    batch = TextBatch.from_texts(
        ["Fuck! FUCK-fuck “fuck” fuck", "Scunthorpe cocktail assess shitake", "cocké écock 中cock", ""]
    )
    assert scan(batch).profane_words.tolist() == [5, 0, 0, 0]


def test_phrases_are_counted_once_each(either_engine: None) -> None:
    texts = ["Buy now! BUY\nNOW. buy - now; risk-free, act now", "buy nowhere, outbuy now", "buy", "now"]
    assert scan(TextBatch.from_texts(texts)).spam_phrases.tolist() == [3, 0, 0, 0]


def test_everything_in_one_pass(either_engine: None) -> None:
    batch = TextBatch.from_texts(["clean", "shit, mail a@b.example and order now"])
    result = scan(batch)
    assert (result.profane_words.tolist(), result.spam_phrases.tolist()) == ([0, 1], [0, 1])
    masked = mask(batch, result, {PiiKind.EMAIL: PiiPolicy.MASK})
    assert masked.texts.texts() == ["shit, mail <EMAIL> and order now"]


_PIECES = st.sampled_from(
    [
        *profane_words()[:12],
        "FUCK",
        "buy",
        "now",
        "risk",
        "free",
        " ",
        "-",
        "\n",
        "’",
        "é",
        "中",
        "_",
        "s",
        ".",
        "\x00",
        "a@b.de",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(_PIECES, max_size=12), max_size=4))
def test_engines_and_the_vocabulary_agree(texts: list[list[str]]) -> None:
    batch = TextBatch.from_texts(["".join(pieces) for pieces in texts])
    quick = scan(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, "numpy")
        plain = scan(batch)
    words = hash_words(batch)
    by_word = sum_by_text(contains(hash_vocabulary(profane_words()), words.hashes), words.first)
    assert quick.profane_words.tolist() == plain.profane_words.tolist() == by_word.tolist()
    assert quick.spam_phrases.tolist() == plain.spam_phrases.tolist()
    for name in ("texts", "starts", "ends", "kinds"):
        assert getattr(quick.findings, name).tolist() == getattr(plain.findings, name).tolist()


def test_every_entry_of_the_lists_is_found() -> None:
    batch = TextBatch.from_texts([*profane_words(), *spam_phrases()])
    result = scan(batch)
    profane = len(profane_words())
    assert result.profane_words[:profane].tolist() == [1] * profane
    assert (result.spam_phrases[profane:] >= 1).all()
