"""Check digits and number ranges decide, not looks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.quality.personal_data import validators
from tests.tasks.quality import planted_personal_data as planted


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True))
def test_every_luhn_number_of_an_issuer_is_a_card_and_no_neighbour_is(first: str) -> None:
    number = planted.luhn(random.Random(0), first, 16)
    if len(set(number)) > 1:
        assert validators.is_card_number(number)
    assert not validators.is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


@given(st.sampled_from(sorted(validators.IBAN_LENGTHS)), st.integers(0, 2**32))
def test_check_digits_decide_about_an_iban(country: str, seed: int) -> None:
    number = planted.iban(random.Random(seed), country, "#" * (validators.IBAN_LENGTHS[country] - 4))
    assert validators.is_iban(number)
    assert not validators.is_iban(number[:-1] + str((int(number[-1]) + 1) % 10))
    assert not validators.is_iban(number[:-1])


@given(st.integers(0, 2**32))
def test_national_numbers_have_their_check_digits(seed: int) -> None:
    rng = random.Random(seed)
    assert validators.is_spanish_number(planted.spanish_id(rng))
    assert validators.is_spanish_number(planted.spanish_foreigner_id(rng))
    assert validators.is_french_number(planted.french_number(rng))
    assert validators.is_german_tax_number(planted.german_tax_number(rng))
    assert validators.is_brazilian_number(planted.brazilian_number(rng))


@pytest.mark.parametrize(
    ("valid", "number"),
    [
        (validators.is_spanish_number, "12345678A"),
        (validators.is_spanish_number, "00000000T"),
        (validators.is_french_number, "185057800608437"),
        (validators.is_german_tax_number, "86095742718"),
        (validators.is_brazilian_number, "111.444.777-36"),
        (validators.is_brazilian_number, "111.111.111-11"),
        (validators.is_british_number, "GB123456A"),
        (validators.is_italian_code, "RSSMRA85T10A562T"),
        (validators.is_social_security_number, "666-12-3456"),
        (validators.is_social_security_number, "078-05-1120"),
        (validators.is_north_american_number, "2119112000"),
        (validators.is_international_number, "34612345"),
        (validators.is_international_number, "0300123456"),
    ],
)
def test_numbers_with_a_wrong_digit_are_refused(valid: object, number: str) -> None:
    assert callable(valid)
    assert not valid(number)


def test_published_examples_are_accepted() -> None:
    assert validators.is_french_number("1 85 05 78 006 084 91")
    assert validators.is_german_tax_number("86095742719")
    assert validators.is_brazilian_number("111.444.777-35")
    assert validators.is_italian_code("RSSMRA85T10A562S")
    assert validators.is_spanish_number("12345678Z")
    assert validators.is_spanish_number("Y2121121Y")
    assert validators.is_iban("GB82WEST12345698765432")


@given(st.ip_addresses(v=4))
def test_only_public_addresses_count(address: object) -> None:
    assert validators.is_public_address(str(address)) == (address.is_global and not address.is_multicast)  # type: ignore[attr-defined]
