"""Document text fit for a report: short, printable, and without anyone's personal data."""

from __future__ import annotations

import re

from tasks.quality import PiiKind, PiiPolicy
from tasks.quality.personal_data import mask_text

_MASK_ALL = dict.fromkeys(PiiKind, PiiPolicy.MASK)
#: Reasons whose texts are not for a report that is mailed around.
_WITHHELD = re.compile(r"pii|personal|secret|key|profan|token leak", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_BLANK_LINES = re.compile(r"\n{3,}")


def excerpt(text: str, characters: int = 420) -> str:
    """The beginning of a text, cut at a word, without characters that a page must not carry.

    Control characters and direction overrides become a visible replacement character.
    """
    text = _BLANK_LINES.sub("\n\n", _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n")[: 4 * characters]))
    if len(text) <= characters:
        return text
    cut = text[:characters]
    return cut[: max(cut.rfind(" "), characters - 40)].rstrip() + " …"


def redacted(text: str, reason: str = "") -> str:
    """The text with personal data masked; withheld when that, or abuse, is why it was removed."""
    if _WITHHELD.search(reason):
        return "Not shown: removed for what it contains."
    return mask_text(text, _MASK_ALL)
