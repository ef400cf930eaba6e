"""Whether a format may be used, and its row in the table."""

from __future__ import annotations

from typing import Any

from tasks.quantization.comparison import Comparison
from tasks.quantization.config import QuantizationConfig, WeightFormat
from tasks.quantization.measuring import Figures

ORIGINAL = "original"
ACCEPTED, REFUSED = "accepted", "refused"
_MEASURED = (
    "perplexity", "perplexity_increase_percent", "kl", "top1_agreement", "needle_recall",
    "prefill_tokens_per_second", "tokens_per_second", "peak_added_mb",
)  # fmt: skip


def verdict(config: QuantizationConfig, weight_format: WeightFormat, figures: Figures) -> tuple[str, str]:
    """`accepted` or `refused`, and the reason."""
    if problem := figures.get("problem"):
        return REFUSED, problem
    if None in figures["comparison"].values():
        return REFUSED, "its loss is not finite"
    comparison = Comparison(**figures["comparison"])
    if objection := _reading_objection(config, figures["reading"]):
        return REFUSED, objection
    found = f"perplexity changes by {comparison.increase_percent:+.2f}%"
    gate, kl_gate = config.gate_percent(weight_format), config.kl_gate(weight_format)
    if comparison.increase_percent > gate:
        return REFUSED, f"{found}, more than the {gate:g}% allowed"
    if comparison.kl > kl_gate:
        return REFUSED, f"KL to the original is {comparison.kl:.2g} nats a token, more than the {kl_gate:g} allowed"
    return ACCEPTED, f"{found}, within the {gate:g}% allowed"


def _reading_objection(config: QuantizationConfig, reading: Figures | None) -> str:
    """What speaks against a file that llama.cpp and our own reader were asked to read; nothing when they agree."""
    if reading is None:
        return ""
    if None in reading.values():
        return "its loss in our own reader is not finite"
    difference = Comparison(**reading).increase_percent
    if abs(difference) <= config.runtime_agreement_percent:
        return ""
    return (
        f"the file does not mean the same in llama.cpp: perplexity there is {difference:+.2f}% of what our own reader "
        f"finds in it, more than {config.runtime_agreement_percent:g}% away"
    )


def row_of(config: QuantizationConfig, name: str, figures: Figures) -> dict[str, Any]:
    """One format in the table for people; what was not measured is None."""
    if name == ORIGINAL:
        result, reason = ORIGINAL, "what the others are compared with"
    else:
        result, reason = verdict(config, WeightFormat(name), figures)
    row: dict[str, Any] = {"format": name, "size_mb": figures["size_bytes"] / 1e6}
    row |= dict.fromkeys(_MEASURED) | _measured(figures)
    if reading := _finite_comparison(figures.get("reading")):
        row["own_reader_perplexity"] = reading.original_perplexity
        row["runtime_difference_percent"] = reading.increase_percent
    else:
        row["own_reader_perplexity"] = row["runtime_difference_percent"] = None
    return row | {"runtime": figures["runtime"], "verdict": result, "reason": reason}


def _measured(figures: Figures) -> dict[str, Any]:
    if "problem" in figures:
        return {}
    speed = figures["speed"]
    found = {
        "needle_recall": figures["needle"].get("recall"),
        "prefill_tokens_per_second": speed["prefill_tokens_per_second"],
        "tokens_per_second": speed["decode_tokens_per_second"],
        "peak_added_mb": speed["peak_added_bytes"] / 1e6,
    }
    if comparison := _finite_comparison(figures["comparison"]):
        found |= {
            "perplexity": comparison.perplexity,
            "perplexity_increase_percent": comparison.increase_percent,
            "kl": comparison.kl,
            "top1_agreement": comparison.agreement,
        }
    return found


def _finite_comparison(figures: Figures | None) -> Comparison | None:
    return None if figures is None or None in figures.values() else Comparison(**figures)
