"""What personal data looks like: per kind a pattern, the bytes it may consist of, and where it may be at all.

Every pattern consumes bytes of its `alphabet` only, so all its matches lie within maximal runs of
such bytes, and a run where `anchor` does not end holds none: searching the runs with an anchor finds
exactly what searching the whole text finds. Patterns are bounded, so a search takes linear time.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

from tasks.quality.config import PiiKind
from tasks.quality.personal_data import validators

Span = tuple[int, int]
#: Bytes after a run that look-aheads may see.
LOOK_AHEAD_BYTES = 32
_CONTEXT_BYTES = 40

_ALPHANUMERIC = string.ascii_letters.encode() + string.digits.encode()
_DIGITS = string.digits.encode()
_CONTINUATION = bytes(range(0x80, 0xC0))
_LATIN_LEADS = bytes(range(0xC3, 0xCA))
#: One separator inside numbers: space, no-break spaces, hyphen, no-break hyphen, en dash.
_GAP = rb"(?:[ -]|\xc2\xa0|\xe2\x80[\x90-\x93\xaf])"
_GAP_BYTES = b" -\xc2\xa0\xe2\x80\x90\x91\x92\x93\xaf"
#: One separator inside telephone numbers.
_PHONE_GAP = rb"(?:[ ()./-]|\xc2\xa0|\xe2\x80[\x90-\x93\xaf])"
_PHONE_BYTES = _DIGITS + _GAP_BYTES + b"()./+,extEXT"


@dataclass(frozen=True)
class Detector:
    """One way of finding one kind.

    pattern: candidates; accept: the part of a candidate that is personal data, or None; alphabet: all
    bytes that the pattern can consume; anchor: cheap pattern that ends within every accepted candidate.
    """

    kind: PiiKind
    pattern: re.Pattern[bytes]
    alphabet: bytes
    anchor: bytes
    accept: Callable[[re.Match[bytes]], Span | None]
    caseless_anchor: bool = False


def _follows(words: re.Pattern[bytes], match: re.Match[bytes]) -> bool:
    """Whether `words` end where a candidate begins, on its line, within `_CONTEXT_BYTES`."""
    data, end = match.string, match.start()
    begin = max(0, end - _CONTEXT_BYTES)
    begin = max(begin, data.rfind(b"\n", begin, end) + 1, data.rfind(b"\xff", begin, end) + 1)
    return words.search(data, begin, end) is not None


def _text(match: re.Match[bytes]) -> str:
    return match.group().decode("utf-8", "replace")


def _when(valid: Callable[[str], bool], unless: re.Pattern[bytes] | None = None) -> Callable[..., Span | None]:
    """Accept a whole candidate by its text, unless what stands before it says that it is something else."""

    def accept(match: re.Match[bytes]) -> Span | None:
        if not valid(_text(match)) or (unless is not None and _follows(unless, match)):
            return None
        return match.span()

    return accept


def _after(words: re.Pattern[bytes], valid: Callable[[str], bool]) -> Callable[..., Span | None]:
    """Accept a whole candidate that follows certain words on its line."""

    def accept(match: re.Match[bytes]) -> Span | None:
        return match.span() if _follows(words, match) and valid(_text(match)) else None

    return accept


#: Numbers of things, right after their names.
_NUMBER_OF_A_THING = re.compile(
    rb"(?i)(?:\b|_)(?:part|p/n|pn|serial|s/n|order|invoice|tracking|model|item|sku|ticket|case|issue|bug|isbn|issn|imei|"
    rb"ean|upc|gtin|oid|doi|pmid|ref|reference|commit|revision|rev|version|build|uid|timestamp|ts)"
    rb"(?:\s?(?:no|number|num|nr|code|id))?[.:#=\s\"']{0,4}$"
)

# --- secrets ---------------------------------------------------------------------------------------

_TOKENS = re.compile(
    rb"(?<![A-Za-z0-9_-])(?:(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?![A-Za-z0-9_])"
    rb"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{40,255}|glpat-[A-Za-z0-9_-]{20,60}"
    rb"|xox[abeprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,250}"
    rb"|sk-[A-Za-z0-9_-]{20,250}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}"
    rb"|hf_[A-Za-z0-9]{30,60}(?![A-Za-z0-9_])|npm_[A-Za-z0-9]{36}(?![A-Za-z0-9_])|pypi-[A-Za-z0-9_-]{50,255}"
    rb"|AIza[0-9A-Za-z_-]{35}(?![A-Za-z0-9_-])|ya29\.[0-9A-Za-z_-]{30,250}"
    rb"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}"
    rb"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}(?:\.[A-Za-z0-9_-]{10,2000})?)"
)
_WORDS_IN_DASHES = re.compile(rb"^(?:[a-z]+[_-]+)*[a-z]+$")


def _accept_token(match: re.Match[bytes]) -> Span | None:
    token = match.group()
    if token.startswith((b"sk-", b"xox", b"glpat-", b"pypi-", b"gh", b"hf_", b"npm_")):
        random = sum(character in _DIGITS for character in token[3:]) >= 2
        if not random or _WORDS_IN_DASHES.match(token):
            return None
    return match.span()


_KEY_BODY = _ALPHANUMERIC + b"+/=\r\n\t -:,.\\\"'"
_PRIVATE_KEYS = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[A-Za-z0-9+/=\r\n\t :,.\\\"']|-(?=[A-Za-z0-9])){40,8000}"
    rb"-----END [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----"
)
_AWS_SECRETS = re.compile(
    rb"(?i:secret_?-?access_?-?key)[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)

# --- e-mail ----------------------------------------------------------------------------------------

_LATIN = rb"[\xc3-\xc9][\x80-\xbf]"
_EMAIL_ADDRESSES = re.compile(
    rb"(?<![A-Za-z0-9_])(?<![A-Za-z0-9_][.%+'-])(?<![\xc3-\xc9][\x80-\xbf])"
    rb"(?:[A-Za-z0-9_]|" + _LATIN + rb")(?:[A-Za-z0-9_.%+'-]|" + _LATIN + rb"){0,63}@"
    rb"(?:(?:[A-Za-z0-9-]|" + _LATIN + rb"){1,63}\.){1,8}(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})"
    rb"(?![A-Za-z0-9_]|-[A-Za-z0-9]|[\xc3-\xc9]|\.\d|@)"
)

# --- IBAN ------------------------------------------------------------------------------------------

_IBANS = re.compile(
    rb"(?<![A-Za-z0-9_])(?:[A-Z]{2}\d\d(?:"
    + _GAP
    + rb"?[A-Z0-9]){11,30}|[a-z]{2}\d\d(?:"
    + _GAP
    + rb"?[a-z0-9]){11,30})"
)
_ALPHANUMERIC_BYTES = frozenset(_ALPHANUMERIC)


def _accept_iban(match: re.Match[bytes]) -> Span | None:
    """The first characters of a candidate, as many as the country's accounts have."""
    candidate = match.group()
    length = validators.IBAN_LENGTHS.get(candidate[:2].decode().upper())
    places = [place for place, byte in enumerate(candidate) if byte in _ALPHANUMERIC_BYTES]
    if length is None or len(places) < length:
        return None
    end = places[length - 1] + 1
    following = match.string[match.start() + end : match.start() + end + 2]
    if re.match(rb"[A-Za-z0-9_]|-[A-Za-z0-9]", following):
        return None
    compact = bytes(candidate[place] for place in places[:length]).decode().upper()
    return (match.start(), match.start() + end) if validators.is_iban(compact) else None


# --- cards, social security numbers, national numbers --------------------------------------------------

_NOT_WITHIN = rb"(?<![A-Za-z0-9_.+])(?<![A-Za-z0-9]-)(?<!\d,)"
_NOT_CONTINUED = rb"(?![A-Za-z0-9_]|[.,-]\d|[.-][A-Za-z])"
_CARDS = re.compile(
    _NOT_WITHIN + rb"(?<!\d\d\d\d )(?:\d{13,19}"
    rb"|\d{4}(" + _GAP + rb")\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?"
    rb"|\d{4}(" + _GAP + rb")\d{6}\2\d{4,5}|\d{6} \d{10,13})" + _NOT_CONTINUED + rb"(?! \d{4}(?!\d))"
)
_DASH = rb"(?:-|\xe2\x80[\x90-\x93])"
_SOCIAL_SECURITY_NUMBERS = re.compile(
    rb"(?<![A-Za-z0-9_.+-])(?<!\d[/,])\d{3}(" + _DASH + rb")\d{2}\1\d{4}" + _NOT_CONTINUED
)
_NINE_DIGITS = re.compile(_NOT_WITHIN + rb"\d{3}" + _GAP + rb"?\d{2}" + _GAP + rb"?\d{4}" + _NOT_CONTINUED)
_SOCIAL_WORDS = re.compile(rb"(?i)\b(?:ssn|ss#|soc(?:ial)?\.?[ _-]?sec(?:urity)?|social)(?![a-z])[^0-9]{0,24}$")
_SPANISH = re.compile(
    rb"(?<![A-Za-z0-9_.-])(?:\d{8}|\d\d\.\d{3}\.\d{3}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z](?![A-Za-z0-9_]|-[A-Za-z0-9])"
)
_SPANISH_WORDS = re.compile(rb"(?i)\b(?:dni|nif|nie|documento)\b[^0-9]{0,24}$")
_FRENCH = re.compile(
    rb"(?<![A-Za-z0-9_.,+-])[12](" + _GAP + rb"?)\d\d\1\d\d\1(?:\d\d|2[AB])\1\d{3}\1\d{3}" + _GAP + rb"?\d\d"
    + _NOT_CONTINUED
)  # fmt: skip
_GERMAN = re.compile(
    _NOT_WITHIN + rb"\d\d" + _GAP + rb"?\d{3}" + _GAP + rb"?\d{3}" + _GAP + rb"?\d{3}" + _NOT_CONTINUED
)
_GERMAN_WORDS = re.compile(rb"(?i)(?:steuer|idnr|id-nr|\btin\b|\btax id\b)[^0-9]{0,24}$")
_BRITISH = re.compile(
    rb"(?<![A-Za-z0-9_-])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](" + _GAP + rb"?)\d\d\1\d\d\1\d\d\1[A-D](?![A-Za-z0-9_-])"
)
_BRITISH_WORDS = re.compile(
    rb"(?i)\b(?:nino|ni|national|insurance|hmrc|tax|id|holder|employee|document|number|no)\b[^0-9\n]{0,12}$"
)
_BRAZILIAN = re.compile(rb"(?<![A-Za-z0-9_.-])\d{3}\.\d{3}\.\d{3}-\d\d" + _NOT_CONTINUED)
_ITALIAN = re.compile(rb"(?<![A-Za-z0-9_])[A-Z]{6}\d\d[ABCDEHLMPRST]\d\d[A-Z]\d{3}[A-Z](?![A-Za-z0-9_])")


def _accept_spanish(match: re.Match[bytes]) -> Span | None:
    text = _text(match)
    if not validators.is_spanish_number(text):
        return None
    if validators.begins_with_date(text) and not _follows(_SPANISH_WORDS, match):
        return None
    return match.span()


def _accept_british(match: re.Match[bytes]) -> Span | None:
    """Part numbers look like these numbers in one piece: such a piece counts after a word that names it."""
    if not validators.is_british_number(_text(match)) or _follows(_NUMBER_OF_A_THING, match):
        return None
    return match.span() if match.group(1) or _follows(_BRITISH_WORDS, match) else None


# --- telephone -------------------------------------------------------------------------------------

_EXTENSION = rb"(?:(?: ?[xX] ?|,? ?[eE][xX][tT]\.? ?)\d{1,6}(?!\d))?"
_NORTH_AMERICAN = re.compile(
    rb"(?<![A-Za-z0-9_.+-])(?<!\d[/,])(?:\+?1" + _PHONE_GAP + rb"{0,2})?"
    rb"(?:\(\d{3}\)" + _GAP + rb"{0,2}\d{3}(?:" + _GAP + rb"|\.)\d{4}"
    rb"|\d{3}(?:/|" + _DASH + rb")\d{3}" + _GAP + rb"\d{4}|\d{3}\.\d{3}\.\d{4})" + _EXTENSION + _NOT_CONTINUED
)
_INTERNATIONAL = re.compile(
    rb"(?<![A-Za-z0-9_.+-])(?:\+ ?|00(?:" + _GAP + rb")?(?=[1-9])|011" + _GAP + rb"(?=[1-9]))"
    rb"\(?[1-9](?:" + _PHONE_GAP + rb"{0,3}\d){6,17}"
)
_PHONE_WORDS = (
    rb"t(?:e|\xc3\xa9)l(?:(?:e|\xc3\xa9)(?:ph|f)(?:o|\xc3\xb3)n[eo]?|efonnummer)?s?|phones?|cell(?:ular)?|celular|"
    rb"m(?:o|\xc3\xb3)(?:b|bile?|vil)|fax|call|whats ?app|sms|handy|hotline|rufnummer"
)
_AFTER_PHONE_WORDS = re.compile(rb"(?i)(?<![a-z])(?:" + _PHONE_WORDS + rb")\b[^0-9A-Za-z]{0,8}"
                                rb"(?:(?:no|nr|number|num|is|at|on|us|me)\b[^0-9A-Za-z]{0,4}){0,2}$")  # fmt: skip
_LOCAL_NUMBERS = re.compile(
    rb"(?<![A-Za-z0-9_.+-])(?<!\d[/,])\(?\d(?:" + _PHONE_GAP + rb"{0,2}\d){6,12}" + _NOT_CONTINUED
)
_QUAD = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_DUMPED = re.compile(rb"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{2,16}[:,]?[ \t]{1,3}$")
_DUMPED_ON = re.compile(rb"[ \t]{1,2}(?=[A-Fa-f]{0,7}\d)[0-9A-Fa-f]{2,8}(?![0-9A-Za-z])")
_TRUNK_ZERO = re.compile(rb"\(0\)")
_GROUPS = re.compile(rb"\d+")
_GLUED = re.compile(rb"[A-Za-z0-9_]|[:,]\d")
_EXTENSIONS = re.compile(_EXTENSION)


def _is_written_number(match: re.Match[bytes]) -> bool:
    """Whether digits after 00 or 011 are set like a telephone number, not like a dump of bytes or a table."""
    candidate = match.group()
    groups = re.findall(rb"\d+", candidate)
    if len(groups) < 2 or all(len(group) == 2 for group in groups) or _follows(_DUMPED, match):
        return False
    return not _DUMPED_ON.match(match.string, match.end())


def _accept_international(match: re.Match[bytes]) -> Span | None:
    """The longest run of whole groups that makes a number of its country's plan."""
    candidate = match.group()
    prefix = 1 if candidate.startswith(b"+") else 3 if candidate.startswith(b"011") else 2
    if validators.begins_with_separated_date(candidate[prefix:].decode("utf-8", "replace")):
        return None
    if prefix > 1 and not _is_written_number(match):
        return None
    trunk = _TRUNK_ZERO.search(candidate)
    for group in reversed(list(_GROUPS.finditer(candidate))):
        end = match.start() + group.end()
        extension = _EXTENSIONS.match(match.string, end)
        extended = extension.end() if extension else end
        if _GLUED.match(match.string, extended):
            continue
        digits = re.sub(rb"\D+", b"", candidate[prefix : group.end()]).decode()
        if trunk is not None and trunk.end() <= group.end():
            before = len(re.sub(rb"\D+", b"", candidate[prefix : trunk.start()]))
            digits = digits[:before] + digits[before + 1 :]
        if len(digits) < 8:
            return None
        if validators.is_international_number(digits):
            return match.start(), extended
    return None


def _accept_north_american(match: re.Match[bytes]) -> Span | None:
    number = re.sub(rb"[eExX].*", b"", match.group(), flags=re.DOTALL)
    digits = re.sub(rb"\D+", b"", number).decode()
    if not validators.is_north_american_number(digits) or _follows(_NUMBER_OF_A_THING, match):
        return None
    return match.span()


def _is_local_number(text: str) -> bool:
    digits = validators.only_digits(text)
    return 7 <= len(digits) <= 12 and not validators.begins_with_date(text) and not _QUAD.fullmatch(text)


# --- IP addresses ----------------------------------------------------------------------------------

_IPV4 = re.compile(
    rb"(?<![A-Za-z0-9_.+-])(?<![A-Za-z]/)(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}"
    rb"(?![A-Za-z0-9_]|\.[A-Za-z0-9]|[+~][A-Za-z0-9]|-(?!\d{1,3}\.\d{1,3}\.)[A-Za-z0-9])"
)
_VERSION_BEFORE = re.compile(
    rb"(?i)(?:\bv|\bver|version|versions|release|section|sect|chapter|clause|appendix|table|figure|firmware|"
    rb"build|oid|[=<>~!]=|\xc2\xa7)[.:\s]{0,3}[\"'(]?$"
)
_ADDRESS_WORDS = re.compile(
    rb"(?i)(?:\bip|addr|host|server|client|dns|\bping|gateway|route|peer|from|://|@|src|dst|\[)[^0-9]{0,16}$"
)
_IPV6 = re.compile(
    rb"(?<![A-Za-z0-9_])(?<![0-9A-Fa-f:]:)[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,35}(?:\d{1,3}(?:\.\d{1,3}){3})?(?![A-Za-z0-9_])"
)


def _accept_ipv4(match: re.Match[bytes]) -> Span | None:
    # Section numbers and versions have small parts; of all addresses, one in 1,600 has three and a small first one.
    parts = [int(part) for part in match.group().split(b".")]
    numbered = parts[0] < 100 and sum(part < 20 for part in parts) > 2
    if _follows(_VERSION_BEFORE, match) or (numbered and not _follows(_ADDRESS_WORDS, match)):
        return None
    return match.span() if validators.is_public_address(_text(match)) else None


def _accept_ipv6(match: re.Match[bytes]) -> Span | None:
    candidate = match.group()
    end = len(candidate)
    if candidate.endswith(b":") and not candidate.endswith(b"::"):
        end -= 1
    if validators.is_public_address(candidate[:end].decode()):
        return match.start(), match.start() + end
    return None


#: Anchors are looser than patterns where that makes the pass quicker: bytes between digits, not characters.
_BETWEEN = rb"[ \x80-\xef-]{0,3}"
_BETWEEN_PHONE = rb"[ ().,/\x80-\xef-]{0,9}"
#: Surest first: where findings overlap, the earlier detector's stands.
DETECTORS: tuple[Detector, ...] = (
    Detector(PiiKind.SECRET, _PRIVATE_KEYS, _KEY_BODY, rb"PRIVATE KEY(?: BLOCK)?-----", lambda match: match.span()),
    Detector(
        PiiKind.SECRET,
        _TOKENS,
        _ALPHANUMERIC + b"_.-",
        rb"(?:(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40}|glpat-[\w-]{20}"
        rb"|xox[abeprs]-[A-Za-z0-9-]{10}|xapp-\d-|sk-[\w-]{20}|[srp]k_(?:live|test)_|hf_[A-Za-z0-9]{30}"
        rb"|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50}|AIza[\w-]{35}|ya29\.|SG\.[\w-]{16}|\beyJ[\w-]{10})",
        _accept_token,
    ),
    Detector(
        PiiKind.SECRET,
        _AWS_SECRETS,
        _ALPHANUMERIC + b"_-\"' \t:=/+",
        rb"secret_?-?access_?-?key[\"']?[ \t]{0,3}[:=]",
        lambda match: match.span(1),
        caseless_anchor=True,
    ),
    Detector(
        PiiKind.EMAIL,
        _EMAIL_ADDRESSES,
        _ALPHANUMERIC + b"_.%+'-@" + _CONTINUATION + _LATIN_LEADS,
        rb"[A-Za-z0-9_.%+'\x80-\xbf-]@[A-Za-z0-9\x80-\xbf\xc3-\xc9-]",
        _when(validators.is_email_address),
    ),
    Detector(
        PiiKind.IBAN,
        _IBANS,
        _ALPHANUMERIC + _GAP_BYTES,
        rb"\b[A-Za-z]{2}\d\d[A-Za-z0-9 \x80-\xef-]{11}",
        _accept_iban,
    ),
    Detector(PiiKind.NATIONAL_ID, _SPANISH, _ALPHANUMERIC + b".-", rb"\d\.?\d\d\d-?[A-Z]\b", _accept_spanish),
    Detector(
        PiiKind.NATIONAL_ID,
        _FRENCH,
        _DIGITS + _GAP_BYTES + b"AB",
        _BETWEEN.join((rb"\b[12]", rb"\d\d", rb"\d\d", rb"\d[\dAB]", rb"\d{3}", rb"\d{3}", rb"\d\d\b")),
        _when(validators.is_french_number, _NUMBER_OF_A_THING),
    ),
    Detector(
        PiiKind.NATIONAL_ID,
        _BRITISH,
        _ALPHANUMERIC + _GAP_BYTES,
        _BETWEEN.join((rb"\d\d", rb"\d\d", rb"[A-D]\b")),
        _accept_british,
    ),
    Detector(
        PiiKind.NATIONAL_ID,
        _BRAZILIAN,
        _DIGITS + b".-",
        rb"\d{3}\.\d{3}\.\d{3}-\d\d",
        _when(validators.is_brazilian_number),
    ),
    Detector(
        PiiKind.NATIONAL_ID,
        _ITALIAN,
        _ALPHANUMERIC,
        rb"\d[A-Z]\d{3}[A-Z]\b",
        _when(validators.is_italian_code),
    ),
    Detector(
        PiiKind.CARD,
        _CARDS,
        _DIGITS + _GAP_BYTES,
        rb"[2-6]\d{3}" + _BETWEEN + rb"\d{2}[0-9 \x80-\xef-]{6}\d",
        _when(validators.is_card_number, _NUMBER_OF_A_THING),
    ),
    Detector(
        PiiKind.SSN,
        _SOCIAL_SECURITY_NUMBERS,
        _DIGITS + _GAP_BYTES,
        rb"\b\d{3}" + _DASH + rb"\d{2}" + _DASH + rb"\d{4}\b",
        _when(validators.is_social_security_number, _NUMBER_OF_A_THING),
    ),
    Detector(
        PiiKind.SSN,
        _NINE_DIGITS,
        _DIGITS + _GAP_BYTES,
        rb"(?:ssn|ss#|sec|security|social)[^0-9\n\xff]{0,26}\d{3}",
        _after(_SOCIAL_WORDS, validators.is_social_security_number),
        caseless_anchor=True,
    ),
    Detector(
        PiiKind.NATIONAL_ID,
        _GERMAN,
        _DIGITS + _GAP_BYTES,
        rb"(?:steuer|idnr|id-nr|tin|tax id)[^0-9\n\xff]{0,30}\d\d",
        _after(_GERMAN_WORDS, validators.is_german_tax_number),
        caseless_anchor=True,
    ),
    Detector(PiiKind.IP_ADDRESS, _IPV4, _DIGITS + b".", rb"\d\.\d{1,3}\.\d{1,3}\.\d", _accept_ipv4),
    Detector(
        PiiKind.IP_ADDRESS,
        _IPV6,
        _DIGITS + b"abcdefABCDEF:.",
        rb"\b[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]",
        _accept_ipv6,
    ),
    Detector(
        PiiKind.PHONE,
        _INTERNATIONAL,
        _PHONE_BYTES,
        rb"(?:\+ ?\(?[1-9]|\b0(?:0|11)" + _BETWEEN + rb"[1-9])(?:" + _BETWEEN_PHONE + rb"\d){3}",
        _accept_international,
    ),
    Detector(
        PiiKind.PHONE,
        _NORTH_AMERICAN,
        _PHONE_BYTES,
        rb"[2-9]\d\d[./)\x80-\xef-][ \x80-\xef-]{0,6}[2-9]\d\d[ .\x80-\xef-]{1,3}\d{4}",
        _accept_north_american,
    ),
    Detector(
        PiiKind.PHONE,
        _LOCAL_NUMBERS,
        _PHONE_BYTES,
        rb"(?:tel|t\xc3\xa9l|phone|fax|call|cell|celular|mob|m\xc3\xb3|whats|sms|handy|hotline|rufnummer)"
        rb"[^0-9\n\xff]{0,40}\d" + _BETWEEN_PHONE + rb"\d",
        _after(_AFTER_PHONE_WORDS, _is_local_number),
        caseless_anchor=True,
    ),
)
KINDS: tuple[PiiKind, ...] = tuple(PiiKind)
