"""The counts: both engines alike on anything, and equal to plain Python's and to spaCy's tokens."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quality.counts import Column, LineFilter
from tasks.quality.measures import measure
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE

prose = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["prose"]

PIECES = (
    "the", "Have", "and", "be", "x", "AB", "don't", "it's", "we'll", "I'm", "e.g.", "a.", "U.S.", "naïve", "漢字",
    "Ω", "१", "http://a.bc/d-e?f", "j.doe@mail.example", "foo.bar()", "a-b", "x--y", "1-2", "3.14", "C++",
    "10%", "$5", "5$", "...", "..", "…", "(", ")", "“", "”", "'", "’s", "—", "★", "a★b", "#", "{", "}", "[1]",
    "[edit]", "[citation needed]", "[", "]", "javascript", "Lorem ipsum", "terms of use", "Privacy Policy",
    "cookie policy", "uses cookies", "use of cookies", "use cookies", "w" * 1001, "-", "•", "=", "==", "a=b",
    "a/b", "a,b", "a:b", "x.Y", "'s", "!", "?", ".", "。",
)  # fmt: skip
GAPS = (" ", " ", " ", "  ", "", "\n", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t", "\u2028", "\x85", "\u00a0", "\x1c")
TEXT = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(GAPS)), max_size=60).map(
    lambda parts: "".join(piece + gap for piece, gap in parts)
)


def counted(texts: list[str] | TextBatch, line_filter: int = 0, engine: str = "numba") -> np.ndarray:
    batch = texts if isinstance(texts, TextBatch) else TextBatch.from_texts(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, engine)
        return measure(batch, np.full(len(batch), line_filter, np.uint8))


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    different = {Column(column).name for column in np.flatnonzero((ours != theirs).any(axis=0))}
    assert not different


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT | st.text(max_size=80), max_size=4), line_filter=st.sampled_from(LineFilter))
def test_engines_agree_on_any_text(texts: list[str], line_filter: LineFilter) -> None:
    assert_same(counted(texts, line_filter), counted(texts, line_filter, "numpy"))


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.binary(max_size=60), max_size=4))
def test_engines_agree_on_any_bytes(parts: list[bytes]) -> None:
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts]))).astype(np.int64)
    batch = TextBatch(np.frombuffer(b"".join(parts), np.uint8), offsets)
    assert_same(counted(batch, 1), counted(batch, 1, "numpy"))


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from(["a", "b", "cc", "dd."]), min_size=12, max_size=80))
def test_engines_agree_on_repetitive_text(words: list[str]) -> None:
    assert_same(counted([" ".join(words)]), counted([" ".join(words)], engine="numpy"))


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), min_size=1, max_size=60))
def test_repetition_is_what_gopher_defines(words: list[str]) -> None:
    (row,) = counted([" ".join(words)])
    for length, column in ((2, Column.TOP_2GRAM), (3, Column.TOP_3GRAM), (4, Column.TOP_4GRAM)):
        grams = Counter(" ".join(words[start : start + length]) for start in range(len(words) - length + 1))
        top = grams.most_common(1)
        assert row[column] == (len(top[0][0]) * top[0][1] if top else 0)
    for length in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        characters, place = 0, 0
        while place < len(words) - length + 1:
            gram = tuple(words[place : place + length])
            if gram in seen:
                characters += len("".join(gram))
                place += length
            else:
                seen.add(gram)
                place += 1
        assert row[Column.DUPLICATE_5GRAMS + length - 5] == characters


@settings(max_examples=80, deadline=None)
@given(text=TEXT)
def test_lines_and_paragraphs_are_those_of_string_methods(text: str) -> None:
    (row,) = counted([text])

    def repeats(parts: list[str]) -> tuple[int, int]:
        again = [part for number, part in enumerate(parts) if part in parts[:number]]
        return len(again), sum(map(len, again))

    assert row[Column.CHARACTERS] == len(text)
    assert row[Column.LINES] == len(text.splitlines())
    assert row[Column.BULLET_LINES] == sum(line.lstrip().startswith(("-", "•")) for line in text.splitlines())
    assert row[Column.ELLIPSIS_LINES] == sum(line.rstrip().endswith(("...", "…")) for line in text.splitlines())
    assert row[Column.ELLIPSES] == text.count("...") + text.count("…")
    if text:
        lines = re.split("\n+", text)
        assert row[Column.FULL_LINES] == len(lines)
        assert (row[Column.DUPLICATE_LINES], row[Column.DUPLICATE_LINE_CHARACTERS]) == repeats(lines)
    if text.strip():
        paragraphs = re.split("\n{2,}", text.strip())
        assert row[Column.PARAGRAPHS] == len(paragraphs)
        duplicate = (row[Column.DUPLICATE_PARAGRAPHS], row[Column.DUPLICATE_PARAGRAPH_CHARACTERS])
        assert duplicate == repeats(paragraphs)


def test_the_line_filter_is_c4s() -> None:
    text = "\n".join(
        (
            "This is a good line.", "Two words.", "no mark at its end at all", "Uses javascript a lot.",
            "See our privacy policy for it.", "He went home [12]. And so on.[citation needed]", "and so on and on...",
            "a " + "w" * 1001 + " b.", "This is a good line.",
        )
    )  # fmt: skip
    rows = [counted([text], line_filter)[0] for line_filter in LineFilter]
    assert [row[Column.KEPT_LINES] for row in rows] == [9, 5, 3]
    assert [row[Column.KEPT_DUPLICATE_CHARACTERS] for row in rows] == [20, 20, 20]
    assert rows[2][Column.SENTENCES] == 4
    assert rows[2][Column.KEPT_CHARACTERS] == 2 * len("This is a good line.") + len("He went home . And so on.")


def test_counts_do_not_depend_on_the_batch() -> None:
    texts = [prose(number) for number in range(5)] + ["", "x"]
    together = counted(texts)
    for index, text in enumerate(texts):
        assert_same(together[index : index + 1], counted([text]))


@pytest.mark.parametrize("seed", range(3))
def test_tokens_and_sentences_are_those_of_spacy(seed: int) -> None:
    pytest.importorskip("spacy")
    text_module = pytest.importorskip("datatrove.utils.text")
    text = prose(seed) + (
        "\nIt isn't (yet) 'done', she said; e.g. the U.S. price of $5.50 – 10% off! See http://a.example/b-c, or write "
        "to j.doe@mail.example. They've a well-known x=y... \"Why?\" he asked. We'll see: a:b, c/dd."
    )
    (row,) = counted([text], LineFilter.C4_CLOSED)
    words = text_module.split_into_words(text, "eng")
    assert row[Column.TOKENS] == len(words)
    sentences = sum(len(text_module.split_into_sentences(line, "eng")) for line in text.splitlines())
    assert row[Column.SENTENCES] == sentences


def test_decisions_equal_datatroves() -> None:
    """The rule set `web` against the filters themselves; the benchmark does it on thousands of documents."""
    filters = pytest.importorskip("datatrove.pipeline.filters")
    pytest.importorskip("spacy")
    from datatrove.data import Document

    from tasks.quality.config import WEB
    from tasks.quality.rules import first_broken

    chain = [
        filters.GopherQualityFilter(),
        filters.GopherRepetitionFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(),
    ]
    texts = [prose(number) for number in range(4)]
    texts += [texts[0] + "\n" + texts[0], texts[1].replace(".", ""), texts[2] + " {", "word " * 100, texts[3][:200]]
    texts += ["\n".join(f"- {line}" for line in texts[0].splitlines()), texts[1].replace(" ", "\n")]
    theirs = []
    for text in texts:
        document = Document(text=text, id="")
        theirs.append(all(block.filter(document) is True for block in chain))
    counts = counted(texts, LineFilter.C4)
    broken, _ = first_broken(counts, {"web": WEB}, ["web"], np.zeros(len(texts), np.int64))
    assert (broken < 0).tolist() == theirs
    assert any(theirs)
    assert not all(theirs)
