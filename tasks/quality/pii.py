"""Personal data and secrets: candidates by pattern, decided by validators, replaced by typed placeholders."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tasks.quality.config import PiiKind, PiiPolicy

#: IBAN length by country (ISO 13616 registry, the countries in wide use).
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20,
    "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24,
    "SA": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26,
}  # fmt: skip
_VERSION_BEFORE = re.compile(r"(?:\bv|version|release|[=<>~]=?|-)\s*$", re.IGNORECASE)


def is_card_number(candidate: str) -> bool:
    """Whether the digits have a card issuer's first digit, a card's length and a right Luhn sum (ISO/IEC 7812)."""
    digits = [int(character) for character in candidate if character.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (3, 4, 5, 6) or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(candidate: str) -> bool:
    """Whether the country's length and the check digits (mod 97 = 1) are right (ISO 13616)."""
    compact = candidate.replace(" ", "")
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def is_social_security_number(candidate: str) -> bool:
    """Whether area, group and serial are ones the US Social Security Administration gives out."""
    area, group, serial = candidate.split("-")
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def is_phone_number(candidate: str) -> bool:
    """Whether it is an international number with separators (ITU E.164 length) or a North American one."""
    digits = re.sub(r"\D", "", candidate)
    if candidate.startswith("+"):
        return 10 <= len(digits) <= 15 and bool(re.search(r"[ .()-]", candidate))
    national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    return len(national) == 10 and national[0] in "23456789" and national[3] in "23456789"


def is_public_address(candidate: str) -> bool:
    """Whether it is an IP address that is routed in the public Internet."""
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in ipaddress.ip_network("2000::/3") and address.is_global
    return address.is_global and not address.is_multicast


class _Check(Protocol):
    def __call__(self, candidate: str, /) -> bool: ...


@dataclass(frozen=True)
class _Detector:
    """A pattern for candidates, a cheap test that rules most texts out, and the validator that decides."""

    kind: PiiKind
    pattern: re.Pattern[str]
    possible: Callable[[str], bool]
    is_valid: _Check = lambda candidate: True
    not_after: re.Pattern[str] | None = None

    def accepts(self, match: re.Match[str]) -> bool:
        before = match.string[max(0, match.start() - 12) : match.start()]
        if self.not_after is not None and self.not_after.search(before):
            return False
        return self.is_valid(match.group())


_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\S]{0,8000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{40,255}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,250}"
    r"|\bsk-[A-Za-z0-9_-]{20,250}\b"
    r"|\bhf_[A-Za-z0-9]{30,60}\b|\bglpat-[A-Za-z0-9_-]{20,60}"
    r"|\bAIza[0-9A-Za-z_-]{35}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,1000}"
)
_SECRET_MARKS = ("PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox",
                 "sk-", "hf_", "glpat-", "AIza", "eyJ")  # fmt: skip
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?!git@)[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.+-])\d{4}(?:[ -]?\d{2,6}){2,4}(?![\w-]|\.\d)")
_SSN = re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w.+=/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,8}){1,4}"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})(?![\w-]|\.\d)"
)
_IP_ADDRESS = re.compile(
    r"(?<![\w.:-])(?:\d{1,3}(?:\.\d{1,3}){3}|[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:-]|\.\d)"
)
_FOUR_DIGITS_GROUPED = re.compile(r"\d{4}[ .-]?\d")
_PHONE_HINT = re.compile(r"\d{3}[ .-]\d{2,4}")
_QUAD_HINT = re.compile(r"\d\.\d{1,3}\.\d|[23][0-9A-Fa-f]{3}:")
_IBAN_HINT = re.compile(r"[A-Z]{2}\d{2}[ A-Z0-9]")

#: In this order: longer, surer patterns first, since what is masked cannot match again.
_DETECTORS = (
    _Detector(PiiKind.SECRET, _SECRETS, lambda text: any(mark in text for mark in _SECRET_MARKS)),
    _Detector(PiiKind.EMAIL, _EMAIL, lambda text: "@" in text),
    _Detector(PiiKind.IBAN, _IBAN, lambda text: _IBAN_HINT.search(text) is not None, is_iban),
    _Detector(PiiKind.CARD, _CARD, lambda text: _FOUR_DIGITS_GROUPED.search(text) is not None, is_card_number),
    _Detector(PiiKind.SSN, _SSN, lambda text: _PHONE_HINT.search(text) is not None, is_social_security_number),
    _Detector(PiiKind.PHONE, _PHONE, lambda text: _PHONE_HINT.search(text) is not None, is_phone_number),
    _Detector(
        PiiKind.IP_ADDRESS,
        _IP_ADDRESS,
        lambda text: _QUAD_HINT.search(text) is not None,
        is_public_address,
        _VERSION_BEFORE,
    ),
)


@dataclass(frozen=True)
class PiiFinding:
    """A text with its personal data replaced, hits by kind, and the kind that asks for the text's removal."""

    text: str
    hits: dict[PiiKind, int]
    drop: PiiKind | None


def placeholder(kind: PiiKind) -> str:
    """What stands for a masked item, `<EMAIL>` for instance."""
    return f"<{kind.value.upper()}>"


def apply_policies(text: str, policies: Mapping[PiiKind, PiiPolicy]) -> PiiFinding:
    """Find personal data and treat it by policy; kinds without a policy are kept as they are."""
    hits: dict[PiiKind, int] = {}
    drop: PiiKind | None = None
    for detector in _DETECTORS:
        policy = policies.get(detector.kind, PiiPolicy.KEEP)
        if policy is PiiPolicy.KEEP or not detector.possible(text):
            continue
        text, count = _replace(detector, text)
        if count:
            hits[detector.kind] = count
            drop = detector.kind if policy is PiiPolicy.DROP and drop is None else drop
    return PiiFinding(text, hits, drop)


def _replace(detector: _Detector, text: str) -> tuple[str, int]:
    count = 0

    def substitute(match: re.Match[str]) -> str:
        nonlocal count
        if not detector.accepts(match):
            return match.group()
        count += 1
        return placeholder(detector.kind)

    return detector.pattern.sub(substitute, text), count
