"""The building blocks of the Markdown report."""

from __future__ import annotations

from collections.abc import Sequence


def section(title: str, *paragraphs: str) -> str:
    """A heading and what is below it; empty when every paragraph is."""
    present = [paragraph for paragraph in paragraphs if paragraph]
    return "\n\n".join([f"## {title}", *present]) if present else ""


def picture(title: str, name: str, plots: Sequence[str]) -> str:
    """The picture of this file name, if it is among the plots."""
    return f"![{title}]({name})" if name in plots else ""


def folded(title: str, content: str) -> str:
    """Content that a reader opens by a click."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"
