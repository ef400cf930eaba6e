"""The model card: what a person must know before using the model, told from the manifests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from infra.artifacts import Manifest
from tasks.registration.config import RegistrationConfig
from tasks.registration.formats import FORMATS
from tasks.registration.gates import Decision
from tasks.registration.lineage import Lineage
from tasks.registration.shortened import shortened_stages

_MAXIMUM_CELL_CHARACTERS = 200
#: Kinds whose tables tell the story of the data, in the order of the flow.
_MODEL_KINDS = ("tokens", "checkpoint", "evaluation", "quantized")
_CURRICULUM = ("name", "context_tokens", "tokens", "batch_tokens", "learning_rate", "final_learning_rate")
#: Mixers whose GGUF architecture stock llama.cpp does not have.
_PATCHED_MIXERS = ("hgrn2",)
_PATCHED = (
    "Stock llama.cpp has no `hgrn2` architecture: the GGUF files run in this project's reader, or in llama.cpp "
    "with this project's patch."
)
_LIMITATIONS = (
    "It is a base model: it continues text, and was neither tuned to follow instructions nor made safe for users.",
    "Figures hold for held-out text of the same sources; nothing was measured on other domains or languages.",
    "Text in its sources may be wrong or biased, and the model repeats it.",
)


def model_card(
    config: RegistrationConfig,
    fingerprint: str,
    lineage: Lineage,
    decision: Decision,
    formats: Sequence[str],
    mixers: Collection[str],
) -> str:
    """The card in Markdown. What the manifests do not say is said to be unknown.

    formats: of the bundle, without the original; mixers: the kinds of the model's layers.
    """
    manifests = list(lineage.manifests.values())
    return _environment().from_string(_template()).render(
        name=config.model_name,
        fingerprint=fingerprint,
        data=[manifest for manifest in manifests if manifest.kind not in _MODEL_KINDS],
        tokens=lineage.of_kind("tokens"),
        curriculum=[curriculum_row(manifest) for manifest in lineage.of_kind("checkpoint")],
        evaluations=lineage.of_kind("evaluation"),
        quantized=lineage.of_kind("quantized"),
        decision=decision,
        formats=[(FORMATS[name].path, name, FORMATS[name].content) for name in formats],
        serve_format=config.serve_format,
        dollars=sum(manifest.cost.usd for manifest in manifests),
        seconds=sum(manifest.cost.seconds for manifest in manifests),
        manifests=manifests,
        missing=lineage.missing,
        limitations=limitations(formats, mixers),
        partial=config.partial,
        shortened=[f"{text[:1].upper()}{text[1:]}." for text in shortened_stages(lineage)],
    )  # fmt: skip


def limitations(formats: Sequence[str], mixers: Collection[str]) -> list[str]:
    """What the model cannot do; where its GGUF files run depends on its layers."""
    has_gguf = any(FORMATS[name].is_gguf for name in formats)
    needs_patch = has_gguf and any(kind in mixers for kind in _PATCHED_MIXERS)
    return [_PATCHED, *_LIMITATIONS] if needs_patch else list(_LIMITATIONS)


def curriculum_row(manifest: Manifest) -> dict[str, Any]:
    """One training stage: what it was asked to do, and how it ended; `tokens` are those it was trained on."""
    asked = {name: manifest.config.get(name) for name in _CURRICULUM}
    if "shortening" in manifest.statistics:
        asked |= {"tokens": manifest.statistics["steps"] * manifest.config["batch_tokens"]}
        asked["planned tokens"] = manifest.config["tokens"]
    return {**asked, "final loss": manifest.metrics.get("train/loss"), "seconds": manifest.cost.seconds}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table whose cells cannot break out of it."""
    if not rows:
        return "Not run."
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_line(column.replace("_", " ") for column in columns), _line("---" for _ in columns)]
    lines += [_line(_text(row.get(column)) for column in columns) for row in rows]
    return "\n".join(lines)


def figures(manifest: Manifest) -> str:
    """A manifest's metrics as a table."""
    return markdown_table([{"figure": key, "value": value} for key, value in manifest.metrics.items()])


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return _escaped(" ".join(text.split())[:_MAXIMUM_CELL_CHARACTERS])


def _escaped(text: str) -> str:
    # Sample texts and source names are data: no cell ends early, no tag or link comes alive.
    for character in ("\\", "|", "<", "[", "`"):
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return text


@cache
def _environment() -> Environment:
    # Markdown, not HTML: cells are escaped by `markdown_table`.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
    environment.filters["table"] = markdown_table
    environment.filters["figures"] = figures
    environment.filters["escaped"] = _escaped
    return environment


@cache
def _template() -> str:
    return (Path(__file__).parent / "model_card.txt").read_text(encoding="utf-8")
