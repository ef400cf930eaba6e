"""Numbers as people read them: units from the column's name, three significant digits, never a false zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NOT_KNOWN = "–"
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")
_COUNT_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def number(value: float) -> str:
    """1,234,567 for whole numbers; three to four significant digits otherwise."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    magnitude = abs(value)
    if magnitude >= 1000:
        return f"{value:,.0f}"
    if magnitude >= 100:
        return f"{value:.1f}"
    if magnitude >= 1:
        return f"{value:.3f}" if magnitude < 10 else f"{value:.2f}"
    return f"{value:.3f}" if magnitude >= 0.01 else f"{value:.2e}"


def count(value: float) -> str:
    """A count in its largest unit: 1.24M, 532k, 87."""
    for limit, unit in _COUNT_UNITS:
        # 999,600 is a million to three digits, not 1,000 thousand.
        if abs(value) >= limit * 0.9995 and abs(value) >= 1000:
            return f"{value / limit:.3g}{unit}"
    return number(value)


def dollars(value: float) -> str:
    """$0.0042, $1.50, $12,300: at least two significant digits, so that a small cost is not nothing."""
    if value == 0:
        return "$0"
    if abs(value) >= 1000:
        return f"${value:,.0f}"
    if abs(value) >= 0.1:
        return f"${value:,.2f}"
    digits = min(8, 1 - math.floor(math.log10(abs(value))))
    return f"${value:.{digits}f}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(size_bytes: float) -> str:
    """Bytes in decimal units: 34.1 MB."""
    value = float(size_bytes)
    for unit in _SIZE_UNITS:
        if abs(value) < 1000 or unit == _SIZE_UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"


def percent(share: float) -> str:
    """A share in 0..1 as a percentage; 99.96% stays below 100."""
    value = share * 100
    if value in (0, 100):
        return f"{value:.0f}%"
    return f"{value:.1f}%" if 0.1 <= abs(value) <= 99.9 else f"{value:.2f}%"


#: Suffix of a column or metric name -> how its figures are written.
_BY_SUFFIX = (
    ("usd_per_million_tokens", dollars),
    ("usd_per_hour", dollars),
    ("_usd", dollars),
    ("_bytes", size),
    ("_seconds", duration),
    ("_percent", lambda value: f"{value:+.2f}%" if value else "0%"),
    ("_mb", lambda value: size(value * 1e6)),
    ("_gb", lambda value: size(value * 1e9)),
    ("_share", percent),
    ("_rate", percent),
    ("_fraction", percent),
    ("_recall", percent),
    ("_agreement", percent),
)
_NOT_SHARES = ("learning_rate",)
_WHOLE_NAMES = {
    "usd": dollars,
    "seconds": duration,
    "recall": percent,
    "accuracy": percent,
    "share": percent,
    "kept_fraction": percent,
    "chance": percent,
    "precision": percent,
    "mfu": percent,
}


def figure(name: str, value: Any) -> str:
    """A value of the column or metric `name`, with the unit the name declares."""
    if value is None or value == "":
        return NOT_KNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return _plain(value)
    leaf = name.rsplit("/", 1)[-1].lower().replace(" ", "_")
    if leaf in _WHOLE_NAMES:
        return _WHOLE_NAMES[leaf](value)
    if not leaf.endswith(_NOT_SHARES):
        for suffix, write in _BY_SUFFIX:
            if leaf.endswith(suffix) and math.isfinite(value):
                return str(write(value))
    return number(value)


def column(name: str, values: Sequence[Any]) -> list[str]:
    """One column's cells; plain decimals share their number of places, so that the points line up."""
    plain = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    fractional = any(value != int(value) for value in plain)
    tiny = any(0 < value < 0.01 for value in plain)
    whole_column = all(value is None or isinstance(value, (int, float)) for value in values)
    if not fractional or tiny or not whole_column or figure(name, 1.5) != number(1.5):
        return [figure(name, value) for value in values]
    places = max(0, 3 - max(0, math.floor(math.log10(max(plain)))))
    return [
        f"{value:,.{places}f}" if isinstance(value, float) and math.isfinite(value) else figure(name, value)
        for value in values
    ]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, float):
        return number(value)
    return str(value)


_UNIT_SUFFIXES = ("_usd", "_bytes", "_seconds", "_mb", "_gb", "_percent")
_ACRONYMS = {
    "usd": "USD", "gb": "GB", "mb": "MB", "pii": "PII", "id": "ID", "kl": "KL", "gguf": "GGUF", "url": "URL",
    "bpe": "BPE", "lr": "LR", "cpu": "CPU", "gpu": "GPU", "fp32": "fp32", "int8": "int8", "kv": "KV", "rss": "RSS",
    "mfu": "MFU", "gflop": "GFLOP",
}  # fmt: skip


def heading(name: str) -> str:
    """A column name as a person writes it; the unit moves into the figures."""
    for suffix in _UNIT_SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            name = name.removesuffix(suffix)
    words = name.replace("/", " · ").replace("_", " ").strip().split(" ")
    written = [_ACRONYMS.get(word.lower(), word) for word in words]
    if written and written[0].islower() and written[0] not in _ACRONYMS:
        written[0] = written[0][0].upper() + written[0][1:]
    return " ".join(written)
