"""Personal data is recognised by validators, not by looks."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.quality.config import PiiKind, PiiPolicy
from tasks.quality.pii import IBAN_LENGTHS, apply_policies, is_card_number, is_iban, is_public_address

MASK_ALL = dict.fromkeys(PiiKind, PiiPolicy.MASK)


def luhn_completed(digits: str) -> str:
    return next(digits + last for last in string.digits if _luhn_sum(digits + last) % 10 == 0)


def _luhn_sum(number: str) -> int:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True))
def test_every_luhn_number_is_a_card_and_no_neighbour_is(first: str) -> None:
    number = luhn_completed(first)
    if len(set(number)) > 1:
        assert is_card_number(number)
    assert not is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data())
def test_check_digits_decide_about_an_iban(country: str, data: st.DataObject) -> None:
    length = IBAN_LENGTHS[country] - 4
    account = data.draw(st.text("0123456789", min_size=length, max_size=length))
    as_digits = "".join(str(int(character, 36)) for character in account + country + "00")
    check = 98 - int(as_digits) % 97
    assert is_iban(f"{country}{check:02d}{account}")
    assert not is_iban(f"{country}{(check + 1) % 97:02d}{account}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jane.doe+x@sub.example.org now", "mail <EMAIL> now"),
        ("call (212) 555-0123 or +49 30 901820 55", "call <PHONE> or <PHONE>"),
        ("card 4111 1111 1111 1111.", "card <CARD>."),
        ("ssn 536-90-4399", "ssn <SSN>"),
        ("iban DE89 3704 0044 0532 0130 00 end", "iban <IBAN> end"),
        ("host 8.8.8.8 and 2001:4860:4860::8888", "host <IP_ADDRESS> and <IP_ADDRESS>"),
        ("key AKIAIOSFODNN7EXAMPLE", "key <SECRET>"),
        ("token ghp_" + "a" * 36, "token <SECRET>"),
    ],
)
def test_items_are_replaced_by_typed_placeholders(text: str, expected: str) -> None:
    assert apply_policies(text, MASK_ALL).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:owner/name and @decorator",
        "2024-05-17 12:30:45, 3.141592653589793, 1/2/2003",
        "version 1.2.3.4 and v8.8.8.8 and numpy==1.26.4.1",
        "private 192.168.0.1, 10.0.0.1, 127.0.0.1, ::1, fe80::1",
        "ssn-like 000-12-3456 666-12-3456 123-00-4567 123-45-0000",
        "not a card 4111 1111 1111 1112",
        "0xdeadbeef 550e8400-e29b-41d4-a716-446655440000",
        "isbn 978-3-16-148410-0 and range 100-200-3000",
    ],
)
def test_lookalikes_stay(text: str) -> None:
    assert apply_policies(text, MASK_ALL).text == text


def test_policies_mask_drop_and_keep() -> None:
    text = "a@b.example and 212-555-0123"
    finding = apply_policies(text, {PiiKind.EMAIL: PiiPolicy.KEEP, PiiKind.PHONE: PiiPolicy.DROP})
    assert (finding.text, finding.drop) == ("a@b.example and <PHONE>", PiiKind.PHONE)


@given(st.text(st.sampled_from("0123456789.-@+ :abcfAKIA()_e"), max_size=120))
def test_masking_never_raises_and_masked_text_is_stable(text: str) -> None:
    once = apply_policies(text, MASK_ALL).text
    assert apply_policies(once, MASK_ALL).text == once


@given(st.ip_addresses(v=4))
def test_only_public_addresses_count(address: object) -> None:
    assert is_public_address(str(address)) == (address.is_global and not address.is_multicast)
