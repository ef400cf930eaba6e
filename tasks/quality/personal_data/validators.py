"""Whether a candidate is what its pattern suggests: check digits, number ranges, registries."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

#: IBAN length by country (ISO 13616 registry, release 99).
IBAN_LENGTHS: Mapping[str, int] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
#: Issuers' prefixes (first, last) and lengths (ISO/IEC 7812 ranges as the networks publish them).
CARD_ISSUERS = (
    ("4", "4", (16, 19)),  # Visa (13 digits are no longer issued, and look like EAN)
    ("51", "55", (16,)), ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)), ("37", "37", (15,)),  # American Express
    ("6011", "6011", (16, 19)), ("644", "649", (16, 19)), ("65", "65", (16, 19)),  # Discover
    ("3528", "3589", (16, 17, 18, 19)), ("2131", "2131", (15,)),  # JCB
    ("300", "305", (14,)), ("3095", "3095", (14,)), ("36", "36", (14, 16)), ("38", "39", (14, 16)),  # Diners Club
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("50", "50", (16, 18, 19)), ("56", "58", (16, 18, 19)), ("60", "60", (16, 19)), ("63", "63", (16, 18, 19)),
    ("67", "67", (16, 18, 19)),  # Maestro, RuPay
    ("2200", "2204", (16,)),  # Mir
)  # fmt: skip
#: Digits of a national number without the trunk zero, by country calling code (ITU E.164 and national plans).
NATIONAL_DIGITS: Mapping[str, tuple[int, int]] = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (8, 11), "40": (9, 9), "41": (9, 9), "43": (7, 13),
    "44": (9, 10), "45": (8, 8), "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (7, 12), "51": (8, 9),
    "52": (10, 11), "53": (8, 8), "54": (10, 11), "55": (10, 11), "56": (9, 9), "57": (8, 10), "58": (10, 10),
    "60": (8, 10), "61": (9, 9), "62": (8, 12), "63": (8, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9),
    "81": (9, 10), "82": (8, 11), "84": (9, 10), "86": (10, 11), "90": (10, 10), "91": (10, 10), "92": (9, 10),
    "93": (9, 9), "94": (9, 9), "95": (7, 10), "98": (10, 10),
}  # fmt: skip
#: First two digits of the other calling codes, which have three; their national numbers have 5 to 12 digits.
_THREE_DIGIT_CODES = frozenset({"21", "22", "23", "24", "25", "26", "29", "35", "37", "38", "42", "50", "59", "67",
                                "68", "80", "85", "87", "88", "96", "97", "99"})  # fmt: skip
#: Ends of file names, units and attributes that stand after an at sign.
_LAST_LABELS_OF_NO_DOMAIN = frozenset(
    re.findall(r"\w+", """
    png jpg jpeg gif svg webp bmp ico tif tiff mp3 mp4 avi css js mjs ts tsx jsx html htm php asp aspx jsp xml
    json yaml yml toml ini cfg conf txt md rst pdf doc docx xls xlsx csv tar gz zip bz2 xz deb rpm exe dll obj
    class jar java cpp hpp cxx py pyc ipynb rb lua tex bib log tmp bak orig diff patch service socket target
    mount timer slice scope swap device path local localhost localdomain lan internal intranet invalid get set
    append items keys values format join split length size value data
    """)
)  # fmt: skip
_DATE = re.compile(r"(?:19|20)\d\d[-./ ]?(?:0[1-9]|1[0-2])[-./ ]?(?:0[1-9]|[12]\d|3[01])")
_SEPARATED_DATE = re.compile(r"(?:19|20)\d\d[-./](?:0?[1-9]|1[0-2])[-./](?:0?[1-9]|[12]\d|3[01])")
_DATE_AND_TIME = re.compile(r"\d{4}::?\d\d?:\d\d(?::\d\d)?")
_NOT_DIGITS = re.compile(r"\D+")
_SPANISH_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_ITALIAN_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16,
         10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip


def only_digits(candidate: str) -> str:
    """The ASCII digits of a candidate."""
    return _NOT_DIGITS.sub("", candidate)


def is_email_address(candidate: str) -> bool:
    """Whether local part and host can be an address's (RFC 5321 lengths; not a file name or a unit's name)."""
    local, _, host = candidate.rpartition("@")
    if ".." in candidate or local.endswith(".") or host.startswith("-") or "-." in host or ".-" in host:
        return False
    if len(candidate) > 64 and (len(local.encode()) > 64 or len(host) > 253):
        return False
    return local.lower() != "git" and host.rpartition(".")[2].lower() not in _LAST_LABELS_OF_NO_DOMAIN


def is_card_number(candidate: str) -> bool:
    """Whether the digits have an issuer's prefix and length and a right Luhn sum (ISO/IEC 7812)."""
    digits = only_digits(candidate)
    if len(set(digits)) < 2:
        return False
    issued = any(
        len(digits) in lengths and first <= digits[: len(first)] <= last for first, last, lengths in CARD_ISSUERS
    )
    return issued and _luhn_sum(digits) % 10 == 0


def _luhn_sum(digits: str) -> int:
    values = [int(digit) for digit in digits]
    doubled = [value * 2 - 9 if value > 4 else value * 2 for value in values[-2::-2]]
    return sum(values[-1::-2]) + sum(doubled)


def is_iban(compact: str) -> bool:
    """Whether the country's length and the check digits (mod 97 = 1) are right (ISO 13616)."""
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def is_social_security_number(candidate: str) -> bool:
    """Whether area, group and serial are ones the US Social Security Administration gives out."""
    digits = only_digits(candidate)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return False
    return digits not in ("078051120", "219099999", "123456789")


def is_north_american_number(digits: str) -> bool:
    """Whether ten digits (eleven with the leading 1) are a number of the North American plan."""
    national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    if len(national) != 10 or national[0] in "01" or national[3] in "01":
        return False
    return national[1:3] != "11"


def is_international_number(digits: str) -> bool:
    """Whether digits after the plus sign are a calling code and a national number of its length (ITU E.164)."""
    if not 8 <= len(digits) <= 15 or digits[0] == "0":
        return False
    if digits[0] == "1":
        return is_north_american_number(digits) and len(digits) == 11
    code = digits[0] if digits[0] == "7" else digits[:2]
    if code in NATIONAL_DIGITS:
        low, high = NATIONAL_DIGITS[code]
        return low <= len(digits) - len(code) <= high
    return digits[:2] in _THREE_DIGIT_CODES and 5 <= len(digits) - 3 <= 12


def begins_with_date(candidate: str) -> bool:
    """Whether it starts with year, month and day."""
    return _DATE.match(candidate) is not None


def begins_with_separated_date(candidate: str) -> bool:
    """Whether it starts with year, month and day with a hyphen, point or slash between."""
    return _SEPARATED_DATE.match(candidate) is not None


def is_public_address(candidate: str) -> bool:
    """Whether it is an IP address that is routed in the public Internet."""
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        given_out = int(address) >> 125 == 1  # 2000::/3
        return given_out and address.is_global and not _DATE_AND_TIME.fullmatch(candidate)
    return address.is_global and not address.is_multicast


def is_spanish_number(candidate: str) -> bool:
    """Whether the letter of a DNI or NIE is right (mod 23); one repeated digit is a form's placeholder."""
    compact = candidate.replace("-", "").replace(" ", "").replace(".", "")
    number = compact[:-1].replace("X", "0", 1).replace("Y", "1", 1).replace("Z", "2", 1)
    return number.isdigit() and len(set(number)) > 1 and _SPANISH_LETTERS[int(number) % 23] == compact[-1]


def is_french_number(candidate: str) -> bool:
    """Whether month, place and key of a French social security number (NIR) are right (97 - n mod 97)."""
    compact = re.sub(r"[^0-9AB]", "", candidate)
    month = int(compact[3:5])
    if not (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) or compact[5:7] == "00":
        return False
    body = compact[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and compact[13:].isdigit() and 97 - int(body) % 97 == int(compact[13:])


def is_german_tax_number(candidate: str) -> bool:
    """Whether one or two of the first ten digits repeat and the check digit is right (ISO 7064 MOD 11,10)."""
    digits = only_digits(candidate)
    if len(digits) != 11 or digits[0] == "0" or not 8 <= len(set(digits[:10])) <= 9:
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def is_british_number(candidate: str) -> bool:
    """Whether the prefix of a National Insurance number is in use (HMRC, NIM39110)."""
    return candidate[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def is_brazilian_number(candidate: str) -> bool:
    """Whether both check digits of a CPF are right (mod 11)."""
    digits = [int(digit) for digit in only_digits(candidate)]
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def is_italian_code(candidate: str) -> bool:
    """Whether the last letter of a codice fiscale is right (sum of its table values mod 26)."""
    total = 0
    for place, character in enumerate(candidate[:15]):
        if place % 2 == 0:
            total += _ITALIAN_ODD[character]
        else:
            total += int(character) if character.isdigit() else ord(character) - ord("A")
    return chr(ord("A") + total % 26) == candidate[15]
