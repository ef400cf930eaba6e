"""Typed placeholders by policy, in whole batches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quality.config import PiiKind, PiiPolicy
from tasks.quality.personal_data import KINDS, find_personal_data, mask, mask_text
from tasks.text import TextBatch

MASK_ALL = dict.fromkeys(PiiKind, PiiPolicy.MASK)


def test_only_texts_with_hits_are_rewritten() -> None:
    batch = TextBatch.from_texts(
        ["nothing", "mail a@b.example, c@d.example", "", "é ssn 536-90-4399 → tel +49 30 901820"]
    )
    masked = mask(batch, find_personal_data(batch), MASK_ALL)
    assert masked.rows.tolist() == [1, 3]
    assert masked.texts.texts() == ["mail <EMAIL>, <EMAIL>", "é ssn <SSN> → tel <PHONE>"]
    counts = [{KINDS[kind]: int(n) for kind, n in enumerate(row) if n} for row in masked.hits]
    assert counts == [{}, {PiiKind.EMAIL: 2}, {}, {PiiKind.SSN: 1, PiiKind.PHONE: 1}]
    assert masked.drop.tolist() == [-1] * 4


def test_policies_mask_drop_and_keep() -> None:
    batch = TextBatch.from_texts(["a@b.example and 212-555-0123", "a@b.example"])
    masked = mask(batch, find_personal_data(batch), {PiiKind.EMAIL: PiiPolicy.KEEP, PiiKind.PHONE: PiiPolicy.DROP})
    assert masked.rows.tolist() == [0]
    assert masked.texts.texts() == ["a@b.example and <PHONE>"]
    assert [KINDS[kind] if kind >= 0 else None for kind in masked.drop] == [PiiKind.PHONE, None]
    assert masked.hits.sum() == 1


def test_a_batch_without_hits_changes_nothing() -> None:
    for texts in ([], ["", ""], ["plain words"]):
        batch = TextBatch.from_texts(texts)
        masked = mask(batch, find_personal_data(batch), MASK_ALL)
        assert (masked.rows.tolist(), len(masked.texts), masked.hits.sum()) == ([], 0, 0)
        assert len(masked.drop) == len(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("0123456789.-@+ :abcfAKIA()_eé"), max_size=80), max_size=4))
def test_what_is_left_is_the_text_around(texts: list[str]) -> None:
    batch = TextBatch.from_texts([f"{text} x@y.example {text}" for text in texts])
    findings = find_personal_data(batch)
    masked = mask(batch, findings, MASK_ALL)
    assert masked.rows.tolist() == sorted(set(findings.texts.tolist()))
    for place, row in enumerate(masked.rows.tolist()):
        expected, end = b"", 0
        data = batch.text(row).encode()
        for index in [index for index in range(len(findings)) if findings.texts[index] == row]:
            name = KINDS[findings.kinds[index]].value.upper()
            expected += data[end : findings.starts[index]] + f"<{name}>".encode()
            end = findings.ends[index]
        assert masked.texts.text(place).encode() == expected + data[end:]


def test_one_text() -> None:
    assert mask_text("key AKIAIOSFODNN7EXAMPLE", MASK_ALL) == "key <SECRET>"
    assert mask_text("nothing here", MASK_ALL) == "nothing here"
