"""What is found, the same with Hyperscan and without, and how much of what was planted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quality.config import PiiKind
from tasks.quality.personal_data import KINDS, Findings, find_personal_data
from tasks.quality.personal_data.findings import search_whole
from tasks.quality.personal_data.patterns import DETECTORS
from tasks.text import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tests.tasks.quality.held_out_personal_data import HELD_OUT
from tests.tasks.quality.planted_personal_data import DEVELOPMENT, TemplateSet, planted_texts, score

Row = tuple[int, int, int, str]


def rows(findings: Findings) -> list[Row]:
    kinds = [KINDS[kind].value for kind in findings.kinds]
    return list(zip(findings.texts.tolist(), findings.starts.tolist(), findings.ends.tolist(), kinds, strict=True))


def found(*texts: str | bytes) -> list[tuple[int, str, str]]:
    data = [text if isinstance(text, bytes) else text.encode() for text in texts]
    batch = batch_of(data)
    return [(row, kind, data[row][start:end].decode()) for row, start, end, kind in rows(find_personal_data(batch))]


def batch_of(texts: list[bytes]) -> TextBatch:
    offsets = np.cumsum([0, *map(len, texts)])
    return TextBatch(np.frombuffer(b"".join(texts), np.uint8), offsets.astype(np.int64))


@pytest.fixture(params=["", "numpy"], ids=["hyperscan", "re"])
def either_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(ENGINE_VARIABLE, request.param)
    yield


@pytest.mark.parametrize(
    ("text", "kind", "item"),
    [
        ("mail jane.doe+x@sub.example.org now", "email", "jane.doe+x@sub.example.org"),
        ("schreib an jürgen@müller.de, bitte", "email", "jürgen@müller.de"),
        ("邮箱abc@qq.com谢谢", "email", "abc@qq.com"),
        ("call (212) 555-0123.", "phone", "(212) 555-0123"),
        ("or +49 30 901820 55 today", "phone", "+49 30 901820 55"),
        ("Tel. 0171 1234567", "phone", "0171 1234567"),
        ("dial 0033 1 42 68 53 00", "phone", "0033 1 42 68 53 00"),
        ("+1-212-555-0123 ext. 45 is mine", "phone", "+1-212-555-0123 ext. 45"),
        ("card 4111 1111 1111 1111.", "card", "4111 1111 1111 1111"),
        ("ssn 536-90-4399", "ssn", "536-90-4399"),
        ("Social Security: 536904399", "ssn", "536904399"),
        ("iban DE89 3704 0044 0532 0130 00 END", "iban", "DE89 3704 0044 0532 0130 00"),
        ("iban de89370400440532013000", "iban", "de89370400440532013000"),
        ("host 8.8.8.8:53", "ip_address", "8.8.8.8"),
        ("at [2001:4860:4860::8888]:80", "ip_address", "2001:4860:4860::8888"),
        ("key AKIAIOSFODNN7EXAMPLE", "secret", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_" + "a1" * 18, "secret", "ghp_" + "a1" * 18),
        ("aws_secret_access_key = " + "aB3/" * 10, "secret", "aB3/" * 10),
        ("DNI 12345678Z", "national_id", "12345678Z"),
        ("Steuer-ID: 86 095 742 719", "national_id", "86 095 742 719"),
        ("codice RSSMRA85T10A562S", "national_id", "RSSMRA85T10A562S"),
    ],
)
def test_items_are_found_whole(either_engine: None, text: str, kind: str, item: str) -> None:
    assert found(text) == [(0, kind, item)]


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:owner/name and @decorator and logo@2x.png and getty@tty1.service",
        "2024-05-17 12:30:45, 3.141592653589793, 1/2/2003",
        "version 1.2.3.4 and v8.8.8.8 and numpy==1.26.4.1 and Chrome/99.0.48.120",
        "Section 34.5.1.3 and 6.1.8.33. LML33",
        "private 192.168.0.1, 10.0.0.1, 127.0.0.1, ::1, fe80::1, 2001:db8::1",
        "22-May-2018::12:06:35",
        "ssn-like 000-12-3456 666-12-3456 123-00-4567 123-45-0000",
        "not a card 4111 1111 1111 1112",
        "0xdeadbeef 550e8400-e29b-41d4-a716-446655440000",
        "isbn 978-3-16-148410-0 and range 100-200-3000",
        "00: b7 10 00 92 07 00 10 02 74 00 00 02",
        "+2025-01-01 12:00:00 in a diff, UTC+05:30",
        "disk ST380021A, class sk-toggleable__content-wrapper-of-things",
        "part no. 212-555-0123, order 536-90-4399",
    ],
)
def test_lookalikes_are_not(either_engine: None, text: str) -> None:
    assert found(text) == []


def test_overlapping_items_count_once_and_the_surest_stands() -> None:
    assert found("sk-proj-1a2b3c4d5e6f7a8b9c0d@example.org") == [(0, "secret", "sk-proj-1a2b3c4d5e6f7a8b9c0d")]
    assert found("4111111111111111@example.org") == [(0, "email", "4111111111111111@example.org")]


def test_neighbouring_texts_do_not_touch(either_engine: None) -> None:
    texts = ["tel", "212-555", "-0123", "", "a@b.com", "c@d.org", "2001:4860:4860:", ":8888", "4111 1111 1111 ", "1111"]
    assert found(*texts) == [(4, "email", "a@b.com"), (5, "email", "c@d.org")]


@pytest.mark.parametrize(("templates", "seed"), [(DEVELOPMENT, 1), (HELD_OUT, 20261121)])
def test_recall_and_precision_on_planted_items(templates: TemplateSet, seed: int) -> None:
    texts = list(planted_texts(templates, seed, each=150))
    findings = rows(find_personal_data(TextBatch.from_texts([text.text for text in texts])))
    recall, precision = score(findings, texts)
    assert (recall >= 0.99, precision >= 0.99) == (True, True), (recall, precision)
    for kind in PiiKind:  # no kind hides behind the others
        chosen = [text for text in texts if text.items and text.items[0].kind == kind.value]
        own = rows(find_personal_data(TextBatch.from_texts([text.text for text in chosen])))
        assert min(score(own, chosen)) >= 0.97, kind


def test_both_ways_agree_on_planted_texts() -> None:
    texts = [text.text for text in planted_texts(HELD_OUT, 5, each=20)] + ["", "\x00"]
    batch = TextBatch.from_texts(texts)
    assert rows(find_personal_data(batch)) == rows(search_whole(batch))


_PIECES = st.sampled_from(
    ["@", ".", "-", "+", " ", ":", "(", ")", "/", "\n", "\u00a0", "é", "中", "\xff", "\x00", "1", "212", "555", "0123",
     "4111", "1111", "00", "011", "49", "+1", "DE89", "3704", "GB29", "NWBK", "tel", "ssn", "steuer", "AB", "12", "C",
     "a", "x@y.com", "example.org", "2001:4860:", "::", "ff", "8.8.8.8", "81.2.69.142", "sk-", "ghp_", "eyJ", "ext. 5",
     "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "MIIE" * 12, "secret_access_key=", "aB3/" * 10,
     "12345678Z", "X1234567L", "536-90-4399", "111.444.777-35", "no", "part", "version", "xn--p1ai"]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(st.lists(_PIECES, max_size=14), min_size=1, max_size=4), st.booleans())
def test_both_ways_agree_on_anything(texts: list[list[str]], broken: bool) -> None:
    encoded = ["".join(pieces).encode("latin-1" if broken else "utf-8", "replace") for pieces in texts]
    batch = batch_of(encoded)
    findings = rows(find_personal_data(batch))
    assert findings == rows(search_whole(batch))
    reach: dict[int, int] = {}
    for row, start, end, _ in findings:
        assert reach.get(row, 0) <= start < end <= len(encoded[row])
        reach[row] = end


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_invalid_utf8_is_searched_all_the_same(texts: list[bytes]) -> None:
    batch = batch_of([text + b" jane@example.org \xff" for text in texts])
    findings = rows(find_personal_data(batch))
    assert findings == rows(search_whole(batch))
    assert sum(kind == "email" for *_, kind in findings) >= len(texts)


def test_characters_are_not_cut(either_engine: None) -> None:
    text = "«jürgen@müller.de»—☎+49 30 901820…"
    data = text.encode()
    for _, start, end, _ in rows(find_personal_data(batch_of([data]))):
        data[:start].decode()
        data[start:end].decode()


@pytest.mark.parametrize(
    "piece",
    [b"@", b"7", b"a", b"a@", b"a@a.", b"4 ", b"1.", b"2001:", b"DE11 ", b"-----BEGIN RSA PRIVATE KEY-----\n", b"eyJ",
     b"sk-", b"\0", b"\xff", b"\xc3", b"+49 30 ", b"00 1 ", b"tel 1", b"(212) ", b"a..", b"x@xx.xx@"],
)  # fmt: skip
def test_ten_megabytes_of_one_thing_cost_as_much_a_byte_as_less(piece: bytes) -> None:
    """Regexes that backtrack without bound would never come back from this; steps are counted, not seconds."""
    sizes = (20_000, 40_000)
    steps = [count_searches(piece * (size // len(piece))) for size in sizes]
    assert steps[1] <= 2.2 * steps[0] + 50


def count_searches(data: bytes) -> int:
    batch = batch_of([data])
    count = 0

    class Counting:
        def __init__(self, pattern: re.Pattern[bytes]) -> None:
            self._pattern = pattern

        def search(self, data: bytes, start: int, end: int) -> re.Match[bytes] | None:
            nonlocal count
            count += 1
            return self._pattern.search(data, start, end)

    originals = [detector.pattern for detector in DETECTORS]
    try:
        for detector in DETECTORS:
            object.__setattr__(detector, "pattern", Counting(detector.pattern))
        find_personal_data(batch)
    finally:
        for detector, pattern in zip(DETECTORS, originals, strict=True):
            object.__setattr__(detector, "pattern", pattern)
    return count


def test_ten_megabytes_without_an_end(tmp_path: object) -> None:
    for data in (b"@" * 10_000_000, b"7" * 10_000_000, b"a" * 5_000_000 + b"@" + b"b." * 2_500_000, bytes(10_000_000)):
        assert find_personal_data(batch_of([data])).texts.tolist() == []
    assert os.environ.get(ENGINE_VARIABLE) != "numpy"
