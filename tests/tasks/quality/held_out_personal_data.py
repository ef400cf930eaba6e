# ruff: noqa: E501 - a table of templates, one a line
"""The held-out template set: written before the detectors, from other formats, locales, carriers and look-alikes."""

from __future__ import annotations

import base64
import string

from tests.tasks.quality.planted_personal_data import (
    BASE62,
    TemplateSet,
    british_number,
    digits,
    french_number,
    grouped,
    iban,
    luhn,
    nanp,
    private_key,
    public_ipv4,
    public_ipv6,
    some,
    spanish_foreigner_id,
    spanish_id,
    ssn,
)

HEXADECIMAL = "0123456789abcdef"
_NAMES = (
    "okonkwo",
    "vandenberg",
    "o'connor",
    "lindqvist",
    "yamada",
    "petrov",
    "ferreira",
    "nguyen",
    "kowalski",
    "haddad",
)
_GIVEN = ("Chidi", "Marijke", "Siobhan", "Astrid", "Kenji", "Dmitri", "Beatriz", "Linh", "Agnieszka", "Rami")
_HOSTS = (
    "uni-heidelberg.de", "bbc.co.uk", "gmail.com", "yahoo.co.jp", "correo.ugr.es", "mail.ru", "outlook.com", "sbcglobal.net",
    "students.unimelb.edu.au", "wanadoo.fr", "web.de", "posteo.net", "startup.io", "health.gov.za", "ngo.africa", "studio.photography",
)  # fmt: skip


def _as_banks_print(number: str) -> str:
    """A British bank's print: country, bank, sort code, account."""
    return f"{number[:4]} {number[4:8]} {number[8:14]} {number[14:]}"


HELD_OUT = TemplateSet(
    makers={
        "email": [
            lambda r: f"{r.choice(_GIVEN)}.{r.choice(_NAMES).title()}@{r.choice(_HOSTS)}",
            lambda r: (
                f"{r.choice(_GIVEN)[0].lower()}{r.choice(_NAMES).replace(chr(39), '')}{r.randrange(1950, 2012)}@{r.choice(_HOSTS)}"
            ),
            lambda r: f"{r.choice(_GIVEN)}_{r.choice(_NAMES)[0]}@{r.choice(_HOSTS)}".upper(),
            lambda r: (
                f"{r.choice(_NAMES).replace(chr(39), '')}-{r.choice(_NAMES)[:3].replace(chr(39), '')}@{r.choice(_HOSTS)}"
            ),
            lambda r: f"{r.randrange(10**7, 10**9)}@qq.com",
            lambda r: f"x@{r.choice(_NAMES).replace(chr(39), '')}.{r.choice(('me', 'dev', 'eu', 'co', 'ai'))}",
        ],
        "phone": [
            lambda r: nanp(r, "{a}.{e}.{l}"),
            lambda r: nanp(r, "1-{a}-{e}-{l}"),
            lambda r: nanp(r, "+1{a}{e}{l}"),
            lambda r: nanp(r, "({a}){e}-{l}"),
            lambda r: nanp(r, "+1-{a}-{e}-{l} ext. 214"),
            lambda r: digits(r, "+34 6## ### ###"),
            lambda r: digits(r, "+4915%########"),
            lambda r: digits(r, "+49 (0)89 / %### ##-##"),
            lambda r: digits(r, "+44 (0)7%## ######"),
            lambda r: digits(r, "+91-9####-#####"),
            lambda r: digits(r, "+86 13# #### ####"),
            lambda r: digits(r, "+55 (11) 9####-####"),
            lambda r: digits(r, "+81-3-%###-####"),
            lambda r: digits(r, "+7 (495) ###-##-##"),
            lambda r: digits(r, "0033 1 4# ## ## ##"),
            lambda r: digits(r, "+61 4## ### ###"),
            lambda r: digits(r, "+46 70-### ## ##"),
            lambda r: digits(r, "+254 7## ######"),
        ],
        "ip_address": [
            public_ipv4,
            public_ipv4,
            lambda r: public_ipv6(r, 6).upper(),
            lambda r: public_ipv6(r, 4),
            lambda r: public_ipv6(r, 8),
        ],
        "card": [
            lambda r: grouped(luhn(r, r.choice(("2221", "2520", "2719")), 16), (4, 4, 4), "-"),
            lambda r: luhn(r, "6011", 16),
            lambda r: luhn(r, "34", 15),
            lambda r: grouped(luhn(r, "3530", 16), (4, 4, 4), " "),
            lambda r: grouped(luhn(r, "36", 14), (4, 6), " "),
            lambda r: grouped(luhn(r, "62", 19), (4, 4, 4, 4), " "),
            lambda r: grouped(luhn(r, "4", 16), (4, 4, 4), "\u00a0"),
            lambda r: grouped(luhn(r, "55", 16), (4, 4, 4), " "),
        ],
        "iban": [
            lambda r: grouped(iban(r, "NL", "@@@@" + "#" * 10), (4,) * 4, " "),
            lambda r: iban(r, "ES", "#" * 20),
            lambda r: grouped(iban(r, "IT", "@" + "#" * 22), (4,) * 6, " "),
            lambda r: grouped(iban(r, "CH", "#" * 17), (4,) * 5, "-"),
            lambda r: grouped(iban(r, "PL", "#" * 24), (4,) * 6, " "),
            lambda r: iban(r, "NO", "#" * 11),
            lambda r: grouped(iban(r, "BR", "#" * 23 + "P1"), (4,) * 7, " "),
            lambda r: _as_banks_print(iban(r, "GB", "@@@@" + "#" * 14)),
            lambda r: grouped(iban(r, "SE", "#" * 20), (4,) * 5, "\u00a0"),
        ],
        "ssn": [lambda r: "-".join(ssn(r)), lambda r: "-".join(ssn(r)), lambda r: "\u2011".join(ssn(r))],
        "secret": [
            lambda r: "ASIA" + some(r, string.ascii_uppercase + "234567", 16),
            lambda r: "gho_" + some(r, BASE62, 36),
            lambda r: "github_pat_" + some(r, BASE62, 22) + "_" + some(r, BASE62, 59),
            lambda r: f"xoxb-{r.randrange(10**11, 10**12)}-{r.randrange(10**12, 10**13)}-{some(r, BASE62, 24)}",
            lambda r: "sk-" + some(r, BASE62, 48),
            lambda r: "sk-proj-" + some(r, BASE62 + "-_", 74) + "T3BlbkFJ" + some(r, BASE62, 74),
            lambda r: "AIza" + some(r, BASE62 + "-_", 35),
            lambda r: private_key(r, ""),
            lambda r: private_key(r, "OPENSSH "),
            lambda r: ".".join(
                base64.urlsafe_b64encode(part).decode().rstrip("=")
                for part in (
                    b'{"alg":"RS256","typ":"JWT","kid":"%d"}' % r.randrange(99),
                    b'{"sub":"%d","name":"Rami Haddad","iat":%d}' % (r.randrange(10**9), r.randrange(10**9)),
                    r.randbytes(256),
                )
            ),
        ],
        "national_id": [
            spanish_foreigner_id,
            lambda r: grouped(spanish_id(r), (8,), "-"),
            lambda r: grouped(french_number(r), (1, 2, 2, 2, 3, 3), " "),
            lambda r: grouped(british_number(r), (2, 2, 2, 2), " "),
        ],
    },
    carriers={
        "email": [
            "From: Reception Desk <{}>\nSubject: keys",
            '["owner", "{}", "active"]',
            "<a href='mailto:{}'>e-mail me</a>",
            "Kirjoita minulle: {}; vastaan huomenna.",
            "有问题请联系{}。谢谢",
            "17;{};Lyon;FR",
            "Is that you?({}) I lost the other address...",
        ],
        "phone": [
            "You can reach the clinic on {}, Monday to Friday",
            "Tel.: {}\nFax: none",
            '<a href="tel:{}">call us</a>',
            "WhatsApp {} for orders!",
            "| Reception | {} | ground floor |",
            "Rufen Sie uns an ({}).",
            "電話は{}です。",
        ],
        "ip_address": [
            "Nov 3 04:11:09 gate sshd[811]: Failed password for invalid user from {} port 40022 ssh2",
            "Banned {} after 5 tries.",
            '{} - - [10/Oct/2023:13:55:36 -0700] "GET / HTTP/1.1" 200',
            "the player ({}) was kicked",
            "ip={};ua=curl",
            "X-Forwarded-For: {}, 10.1.1.1",
        ],
        "card": [
            "He read the digits aloud: {}. Then he hung up.",
            "Visa/MC {} exp 09/27 cvv 551",
            "PAN={}&amount=12.00",
            "Refunded to {}\n",
            '"cc": "{}",',
        ],
        "iban": [
            "Bitte auf {} überweisen.",
            "Account holder: A. Lindqvist, IBAN {}, BIC NDEASESS",
            "Donations:\n{}\nThank you",
            "iban={};amount=40",
            "Virement au compte {} avant lundi",
        ],
        "ssn": [
            "Applicant's SSN {} and date of birth 04/11/1971",
            "| 0081 | Doe, Jane | {} | active |",
            "my social is {}, please hurry",
            "ssn={}&state=OH",
            "Employee ID {}.",
        ],
        "secret": [
            "Oops, I pushed {} to the public repository",
            "Authorization: Bearer {}",
            '    "token": "{}"',
            "OPENAI_API_KEY={}",
            "curl -H 'X-Key: {}' https://api.example.net",
        ],
        "national_id": [
            "Con DNI/NIE {}, mayor de edad",
            "Numéro de sécurité sociale : {}.",
            "NI number {} (employee 12)",
            "titular;{};activo",
            "(ID {})",
        ],
    },
    negatives={
        "european date": lambda r: (
            f"Am {r.randrange(1, 29)}.{r.randrange(1, 13):02d}.{r.randrange(1950, 2025)} um {r.randrange(24)}.30 Uhr"
        ),
        "date range": lambda r: (
            f"from {r.randrange(1900, 2025)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d}/{r.randrange(1900, 2025)}-12-31"
        ),
        "iso timestamp": lambda r: (
            f"2023-0{r.randrange(1, 9)}-{r.randrange(10, 28)}T{r.randrange(10, 24)}:05:33.482+02:00 INFO ready"
        ),
        "unix time": lambda r: (
            f"ts={r.randrange(1_500_000_000, 1_800_000_000)} and in ms {r.randrange(1_500_000_000_000, 1_800_000_000_000)}"
        ),
        "sha256": lambda r: "sha256:" + some(r, HEXADECIMAL, 64),
        "short commit": lambda r: f"fixes {some(r, HEXADECIMAL, 7)} and {some(r, string.digits, 8)}",
        "uuid": lambda r: "urn:uuid:" + "-".join(some(r, HEXADECIMAL, n) for n in (8, 4, 4, 4, 12)).upper(),
        "package version": lambda r: (
            f"libfoo{r.randrange(9)}_{r.randrange(9)}.{r.randrange(30)}.{r.randrange(20)}.{r.randrange(9)}-1+deb12u1_amd64.deb"
        ),
        "browser version": lambda r: (
            f"Mozilla/5.0 Chrome/{r.randrange(70, 125)}.0.{r.randrange(10, 250)}.{r.randrange(10, 250)} Safari/537.36"
        ),
        "pinned": lambda r: f"pip install numpy=={r.randrange(3)}.{r.randrange(30)}.{r.randrange(9)}.{r.randrange(9)}",
        "section": lambda r: (
            f"{r.randrange(1, 12)}.{r.randrange(1, 9)}.{r.randrange(1, 9)}.{r.randrange(1, 9)} Scope of the agreement"
        ),
        "object identifier": lambda r: f"OID 1.3.6.1.4.1.{r.randrange(100, 60000)}.{r.randrange(9)}.{r.randrange(9)}",
        "isbn ten": lambda r: f"ISBN 0-{r.randrange(100, 999)}-{r.randrange(10000, 99999)}-{r.choice('0123456789X')}",
        "isbn thirteen": lambda r: digits(r, "ISBN-13: 978-0-###-#####-#"),
        "card of no issuer": lambda r: "Ref " + luhn(r, r.choice(("10", "71", "99", "80")), 16),
        "card with a wrong sum": lambda r: (lambda n: f"Number {n[:-1]}{(int(n[-1]) + r.randrange(1, 10)) % 10}.")(
            luhn(r, "4", 16)
        ),
        "iban with a wrong sum": lambda r: (lambda n: f"IBAN {n[:-1]}{(int(n[-1]) + r.randrange(1, 10)) % 10}")(
            iban(r, "DE", "#" * 18)
        ),
        "ssn of a wrong range": lambda r: (
            f"Form {r.choice((f'9{r.randrange(10, 100)}', '666', '000'))}-{r.randrange(10, 99)}-{r.randrange(1000, 9999)}"
        ),
        "private address": lambda r: (
            f"bind 172.{r.randrange(16, 32)}.{r.randrange(256)}.{r.randrange(256)}:8080, fe80::{some(r, HEXADECIMAL, 3)}:1 or fd00::{r.randrange(9)}"
        ),
        "reserved address": lambda r: (
            f"ping {r.choice(('127.0.0.', '0.0.0.', '203.0.113.', '198.51.100.', '255.255.255.', '169.254.0.', '100.64.0.'))}{r.randrange(1, 255)} and 2001:db8::{r.randrange(99)}"
        ),
        "netmask": lambda r: f"netmask 255.255.{r.choice((0, 128, 240, 255))}.0",
        "decorators": lambda r: "@pytest.fixture\ndef a@b: matrix = m @ n.T; x@y",
        "repository": lambda r: f"git clone git@gitlab.com:team/tool-{r.randrange(99)}.git && ssh deploy@build",
        "scoped package": lambda r: f"npm i @babel/core@7.{r.randrange(30)}.{r.randrange(9)} left-pad@1.3.0 vue@next",
        "retina image": lambda r: (
            f"<img src=logo@2x.png srcset='hero@{r.randrange(2, 4)}x.jpg'> systemctl status getty@tty{r.randrange(1, 7)}.service"
        ),
        "decimals": lambda r: f"{r.uniform(0, 1):.16f} {r.uniform(100, 999):.4f} {r.uniform(-9, 9):.10e}",
        "coordinates": lambda r: f"{r.uniform(-90, 90):.6f}, {r.uniform(-180, 180):.6f}; 48°51'24\" N",
        "mac": lambda r: "HWaddr " + "-".join(some(r, HEXADECIMAL, 2) for _ in range(6)).upper(),
        "part number": lambda r: digits(r, "P/N ###-####-##, rev @#, model @@-####-###"),
        "amounts": lambda r: (
            f"EUR {r.randrange(1, 999)}.{r.randrange(100, 999)}.{r.randrange(100, 999)},00 or $1,234,567.89"
        ),
        "table": lambda r: " ".join(str(r.randrange(100, 9999)) for _ in range(12)),
        "hex dump": lambda r: "00000010  " + " ".join(some(r, HEXADECIMAL, 2) for _ in range(16)),
        "arithmetic": lambda r: (
            f"({r.randrange(100, 999)}) {r.randrange(100, 999)}+{r.randrange(1000, 9999)} = x - {r.randrange(100, 999)}-{r.randrange(10, 99)}"
        ),
        "diff": lambda r: (
            f"@@ -{r.randrange(1, 999)},7 +{r.randrange(1, 999)},9 @@\n+{r.randrange(2000, 2025)}-01-0{r.randrange(1, 9)} 12:00:00"
        ),
        "time zone": lambda r: (
            f"UTC+0{r.randrange(1, 9)}:00, GMT-5, {r.randrange(10, 24)}:15:00 +0{r.randrange(1, 9)}00"
        ),
        "range of pages": lambda r: (
            f"pp. {r.randrange(100, 400)}-{r.randrange(400, 900)}, vol. {r.randrange(10, 99)}, no. {r.randrange(1000, 9999)}"
        ),
        "tracking": lambda r: digits(r, "tracking 1Z999AA1012345####, order 114-#######-#######"),
        "class names": lambda r: (
            "sk-toggleable__content-wrapper sk-estimator-doc-link-fitted task-manager-sk-container-fluid-large"
        ),
        "constants": lambda r: (
            "AKIAVELLI hf_hub_download_with_progress ghp_short eyJust.kidding 0x7fffffffffffffff 18446744073709551615"
        ),
        "score": lambda r: (
            f"won 6-4 {r.randrange(7)}-6 6-{r.randrange(5)}, {r.randrange(10, 99)}-{r.randrange(10, 99)} at half-time, 4x100 m in 37.10"
        ),
    },
    filler=(
        "Der Bus war zu spät, also gingen wir zu Fuß.",
        "The committee (founded 1921) met 14 times; 3/4 of members voted.",
        "La réunion de 14 h 30 est reportée au 3 mai 2019.",
        "El pedido llegó con 2 días de retraso, pero intacto.",
        "She paid $1,299.00 on 5 Jan 2020 and left.",
        "これはテストの文章です。",
        'Ratio 16:9, 1920x1080, 60 Hz, 27".',
    ),
)
