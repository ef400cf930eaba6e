"""Texts with planted personal data and look-alikes, whose places are known: what recall and precision are measured on.

Every set has its own carriers, number formats, locales and look-alikes. DEVELOPMENT is what the
detectors were written with; HELD_OUT was written before them and its misses were not looked at.
Numbers are made here, from the standards, not with the code under test.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Maker = Callable[[random.Random], str]
UPPER_OR_DIGIT = string.ascii_uppercase + string.digits
BASE62 = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Item:
    """A planted item: [start, end) in bytes of UTF-8, and its kind."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class PlantedText:
    """A text, the items in it, and the name of the look-alike that it carries instead, if any."""

    text: str
    items: tuple[Item, ...]
    label: str


@dataclass(frozen=True)
class TemplateSet:
    """makers: items by kind; carriers: sentences with `{}` by kind; negatives: whole sentences by name."""

    makers: Mapping[str, Sequence[Maker]]
    carriers: Mapping[str, Sequence[str]]
    negatives: Mapping[str, Maker]
    filler: Sequence[str]


def planted_texts(templates: TemplateSet, seed: int, each: int) -> Iterator[PlantedText]:
    """`each` texts of every kind and of every look-alike, in random order."""
    rng = random.Random(seed)
    jobs = [(kind, True) for kind in templates.makers for _ in range(each)]
    jobs += [(name, False) for name in templates.negatives for _ in range(max(1, each // 4))]
    rng.shuffle(jobs)
    for name, positive in jobs:
        before = " ".join(rng.choices(templates.filler, k=rng.randrange(3)))
        after = " ".join(rng.choices(templates.filler, k=rng.randrange(3)))
        if not positive:
            yield PlantedText(_join(before, templates.negatives[name](rng), after), (), name)
            continue
        index = rng.randrange(len(templates.makers[name]))
        item = templates.makers[name][index](rng)
        head, tail = rng.choice(templates.carriers[name]).split("{}")
        start = len(_join(before, head, None).encode())
        text = _join(before, head + item + tail, after)
        yield PlantedText(text, (Item(start, start + len(item.encode()), name),), f"{name}-{index}")


def _join(before: str, middle: str, after: str | None) -> str:
    text = f"{before}\n{middle}" if before else middle
    return f"{text}\n{after}" if after else text


def score(found: Sequence[tuple[int, int, int, str]], texts: Sequence[PlantedText]) -> tuple[float, float]:
    """Recall and precision of (text, start, end, kind) rows: an item counts when one row of its kind covers it all."""
    rows: dict[int, list[tuple[int, int, str]]] = {}
    for text, start, end, kind in found:
        rows.setdefault(text, []).append((start, end, kind))
    items = [(index, item) for index, text in enumerate(texts) for item in text.items]
    hit = sum(
        any(start <= item.start and item.end <= end and kind == item.kind for start, end, kind in rows.get(index, ()))
        for index, item in items
    )
    right = sum(
        any(start < item.end and item.start < end and kind == item.kind for item in texts[index].items)
        for index, found_rows in rows.items()
        for start, end, kind in found_rows
    )
    return hit / len(items), right / max(len(found), 1)


# --- numbers ---------------------------------------------------------------------------------------


def digits(rng: random.Random, pattern: str) -> str:
    """`#` becomes a digit, `%` one of 2-9, `@` a letter A-Z; the rest stays."""
    table = {"#": string.digits, "%": "23456789", "@": string.ascii_uppercase}
    return "".join(rng.choice(table[character]) if character in table else character for character in pattern)


def nanp(rng: random.Random, form: str) -> str:
    """A North American number: {a} area, {e} exchange, {l} line (no N11 codes)."""

    def code() -> str:
        while True:
            value = digits(rng, "%##")
            if value[1:] != "11":
                return value

    return form.format(a=code(), e=code(), l=digits(rng, "####"))


def luhn(rng: random.Random, prefix: str, length: int) -> str:
    """A number of that length with a right last digit."""
    body = digits(rng, prefix + "#" * (length - len(prefix) - 1))
    for last in string.digits:
        total = 0
        for place, character in enumerate(reversed(body + last)):
            value = int(character) * (1 + place % 2)
            total += value // 10 + value % 10
        if total % 10 == 0:
            return body + last
    raise AssertionError


def grouped(number: str, sizes: Sequence[int], separator: str) -> str:
    """Digits in groups; what is left over makes the last group."""
    groups, place = [], 0
    for size in sizes:
        groups.append(number[place : place + size])
        place += size
    return separator.join([group for group in [*groups, number[place:]] if group])


def iban(rng: random.Random, country: str, account: str) -> str:
    """An account number of a country with its check digits."""
    bban = digits(rng, account)
    value = int("".join(str(int(character, 36)) for character in bban + country + "00"))
    return f"{country}{98 - value % 97:02d}{bban}"


def ssn(rng: random.Random) -> tuple[str, str, str]:
    """Area, group and serial that are given out."""
    area = rng.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03d}", f"{rng.randrange(1, 100):02d}", f"{rng.randrange(1, 10000):04d}"


def public_ipv4(rng: random.Random) -> str:
    """An address of a provider's usual first octets."""
    first = rng.choice([24, 31, 46, 52, 62, 71, 78, 81, 86, 93, 104, 109, 134, 151, 176, 178, 185, 188, 195, 203, 212])
    second = rng.choice([number for number in range(256) if number not in (0, 2, 51, 168)])
    return f"{first}.{second}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"


def public_ipv6(rng: random.Random, groups: int) -> str:
    """An address of a provider, with `groups` groups (fewer than 8: compressed)."""
    head = rng.choice(["2a00", "2a02", "2600", "2607", "2400", "2804", "2001"])
    second = "4860" if head == "2001" else f"{rng.randrange(0x100, 0x1000):x}"
    rest = [f"{rng.randrange(1, 0x10000):x}" for _ in range(groups - 2)]
    if groups == 8:
        return ":".join([head, second, *rest])
    cut = rng.randrange(1, len(rest) + 1) if rest else 0
    return ":".join([head, second, *rest[: cut - 1]]) + "::" + ":".join(rest[cut - 1 :])


def some(rng: random.Random, alphabet: str, length: int) -> str:
    """Characters of an alphabet."""
    return "".join(rng.choices(alphabet, k=length))


def jwt(rng: random.Random) -> str:
    """A signed token: two JSON objects in base64 and a signature."""
    alphabet = BASE62 + "-_"
    return f"eyJ{some(rng, alphabet, 33)}.eyJ{some(rng, alphabet, 80)}.{some(rng, alphabet, 43)}"


def private_key(rng: random.Random, name: str) -> str:
    """A private key in PEM."""
    lines = [some(rng, BASE62 + "+/", 64) for _ in range(rng.randrange(3, 20))]
    return f"-----BEGIN {name}PRIVATE KEY-----\n" + "\n".join(lines) + f"==\n-----END {name}PRIVATE KEY-----"


def spanish_id(rng: random.Random) -> str:
    """DNI: eight digits and their letter (mod 23)."""
    number = rng.randrange(30_000_000, 80_000_000)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def spanish_foreigner_id(rng: random.Random) -> str:
    """NIE: X, Y or Z, seven digits, the letter."""
    first, number = rng.randrange(3), rng.randrange(10_000_000)
    return f"{'XYZ'[first]}{number:07d}{'TRWAGMYFPDXBNJZSQVHLCKE'[(first * 10_000_000 + number) % 23]}"


def french_number(rng: random.Random) -> str:
    """NIR: sex, year, month, department, commune, order, and the key 97 - n mod 97."""
    body = (
        f"{rng.choice('12')}{rng.randrange(100):02d}{rng.randrange(1, 13):02d}{rng.randrange(1, 96):02d}"
        f"{rng.randrange(1, 900):03d}{rng.randrange(1, 999):03d}"
    )
    return f"{body}{97 - int(body) % 97:02d}"


def german_tax_number(rng: random.Random) -> str:
    """Steuer-ID: ten digits of which exactly one occurs twice, and an ISO 7064 MOD 11,10 check digit."""
    while True:
        kept = rng.sample(string.digits, 9)
        body = [*kept, rng.choice(kept)]
        rng.shuffle(body)
        if body[0] != "0":
            break
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(body) + str((11 - product) % 10)


def british_number(rng: random.Random) -> str:
    """National Insurance number."""
    while True:
        prefix = rng.choice("ABCEGHJKLMNOPRSTWXYZ") + rng.choice("ABCEGHJKLMNPRSTWXYZ")
        if prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            return f"{prefix}{digits(rng, '######')}{rng.choice('ABCD')}"


def brazilian_number(rng: random.Random) -> str:
    """CPF: nine digits and two check digits (mod 11)."""
    body = [rng.randrange(10) for _ in range(9)]
    for _ in range(2):
        total = sum(digit * weight for digit, weight in zip(body, range(len(body) + 1, 1, -1), strict=True))
        body.append(0 if total % 11 < 2 else 11 - total % 11)
    number = "".join(map(str, body))
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


# --- the development set ---------------------------------------------------------------------------

_FIRST = ("john", "mary", "peter", "anna", "luis", "sofia", "omar", "ivan")
_LAST = ("smith", "jones", "meyer", "garcia", "rossi", "novak", "khan", "silva")

DEVELOPMENT = TemplateSet(
    makers={
        "email": [
            lambda r: f"{r.choice(_FIRST)}.{r.choice(_LAST)}@example.com",
            lambda r: f"{r.choice(_FIRST)}{r.randrange(100)}@mail.example.org",
            lambda r: f"{r.choice(_FIRST)}+{r.choice(_LAST)}@{r.choice(_LAST)}-group.co.uk",
        ],
        "phone": [
            lambda r: nanp(r, "({a}) {e}-{l}"),
            lambda r: nanp(r, "{a}-{e}-{l}"),
            lambda r: nanp(r, "+1 {a} {e} {l}"),
            lambda r: digits(r, "+44 20 7### ####"),
            lambda r: digits(r, "+49 30 %#####"),
            lambda r: digits(r, "+33 6 ## ## ## ##"),
        ],
        "ip_address": [public_ipv4, lambda r: public_ipv6(r, 8), lambda r: public_ipv6(r, 5)],
        "card": [
            lambda r: grouped(luhn(r, "4", 16), (4, 4, 4), " "),
            lambda r: luhn(r, "51", 16),
            lambda r: grouped(luhn(r, "37", 15), (4, 6), " "),
        ],
        "iban": [
            lambda r: grouped(iban(r, "DE", "#" * 18), (4,) * 5, " "),
            lambda r: iban(r, "GB", "@@@@" + "#" * 14),
            lambda r: iban(r, "FR", "#" * 23),
        ],
        "ssn": [lambda r: "-".join(ssn(r))],
        "secret": [
            lambda r: "AKIA" + some(r, UPPER_OR_DIGIT, 16),
            lambda r: "ghp_" + some(r, BASE62, 36),
            lambda r: "hf_" + some(r, BASE62, 34),
            jwt,
            lambda r: private_key(r, "RSA "),
        ],
        "national_id": [spanish_id, french_number, british_number, brazilian_number],
    },
    carriers={
        "email": ["Write to {} for details.", "The author is {}", "Contact: {}, please."],
        "phone": ["Call {} now.", "Our number is {}.", "Phone: {}"],
        "ip_address": ["The server at {} answered.", "Connection from {}", "client={} status=200"],
        "card": ["The card {} was charged.", "Card number: {}", "paid with {}, thanks"],
        "iban": ["Transfer to {} today.", "IBAN: {}", "The account is {}."],
        "ssn": ["SSN: {}", "Her number is {}.", "social security {} on file"],
        "secret": ["key = '{}'", "The token is {}", "export TOKEN={}"],
        "national_id": ["ID: {}", "The document {} expired.", "holder {}, valid"],
    },
    negatives={
        "date": lambda r: f"On {r.randrange(1990, 2030)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d} it rained.",
        "timestamp": lambda r: f"2024-0{r.randrange(1, 9)}-1{r.randrange(10)} 12:{r.randrange(10, 60)}:00.123456 start",
        "sha": lambda r: f"commit {some(r, '0123456789abcdef', 40)}",
        "uuid": lambda r: "id " + "-".join(some(r, "0123456789abcdef", n) for n in (8, 4, 4, 4, 12)),
        "version": lambda r: f"version {r.randrange(9)}.{r.randrange(20)}.{r.randrange(99)}.{r.randrange(99)} is out",
        "isbn": lambda r: digits(r, "ISBN 978-3-16-14841#-#"),
        "bad card": lambda r: "Card 4111 1111 1111 111" + r.choice("023456789"),
        "bad ssn": lambda r: r.choice(("000-12-3456", "666-12-3456", "912-45-6789", "123-00-4567", "123-45-0000")),
        "private address": lambda r: f"host 192.168.{r.randrange(256)}.{r.randrange(256)} and 10.0.0.{r.randrange(9)}",
        "local mail": lambda r: "Mail for root@localhost and @decorator and git@github.com:a/b.git",
        "decimal": lambda r: digits(r, "pi is 3.1415926535####, e is 2.71828182845####"),
        "address of hardware": lambda r: "mac " + ":".join(some(r, "0123456789abcdef", 2) for _ in range(6)),
    },
    filler=(
        "The meeting went on for two hours.",
        "In 1987 about 3,214 people came, 4.5% more than before.",
        "Nobody knew why the lights were still on.",
        "See chapter 12, pages 101-145.",
    ),
)
