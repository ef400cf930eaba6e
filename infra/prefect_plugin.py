"""Prefect start-up plugin: `prefect deployment run sam2-full-pipeline`, or another flow of ours, takes the bare name.

Prefect asks for `<flow>/<deployment>` and reads its arguments after the plugins have run, so the name is completed
here, in `sys.argv`. Prefect loads this in every process that imports it: it must cost nothing, and imports nothing
but the standard library until the command is ours.
"""

from __future__ import annotations

import itertools
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

from prefect.plugins import register_hook

DEPLOYMENT = "local"
FLOW_NAMES = frozenset({"sam2-full-pipeline", "sam2-finetune", "sam2-budget-plan"})
HEALTH_TIMEOUT_SECONDS = 3.0


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Prefect's hook: complete the name, and stop with one clear line when there is no server to ask."""
    position = _name_position(sys.argv)
    if position is None:
        return
    sys.argv[position] = complete_name(sys.argv[position])
    if not _server_answers(ctx.api_url):
        where = f"at {ctx.api_url}" if ctx.api_url else "for this folder"
        raise SystemExit(f"No Prefect server answers {where}: start it with `make up` or `sam2 up`, then repeat.")


def complete_name(name: str) -> str:
    """`sam2-full-pipeline` becomes `sam2-full-pipeline/local`; anything else stays."""
    return f"{name}/{DEPLOYMENT}" if name in FLOW_NAMES else name


def _name_position(arguments: list[str]) -> int | None:
    """Where our flow's name stands in `prefect deployment run <name>`; None for other commands."""
    if not arguments or not _is_prefect_command(arguments[0]):
        return None
    words = [index for index, word in enumerate(arguments[1:], 1) if not word.startswith("-")]
    for first, second in itertools.pairwise(words):
        if (arguments[first], arguments[second]) == ("deployment", "run"):
            return next((index for index in words if index > second and _is_ours(arguments[index])), None)
    return None


def _is_prefect_command(program: str) -> bool:
    path = Path(program)
    return path.stem == "prefect" or path.parts[-2:] == ("prefect", "__main__.py") or program == "-m"


def _is_ours(word: str) -> bool:
    return word.partition("/")[0] in FLOW_NAMES


def _server_answers(api_url: str | None) -> bool:
    if not api_url or not api_url.startswith(("http://", "https://")):
        return False
    if "127.0.0.1" in api_url or "localhost" in api_url:
        os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=HEALTH_TIMEOUT_SECONDS):  # noqa: S310
            return True
    except OSError as error:
        # A login page or a refusal is an answer: let Prefect say what it makes of it.
        return hasattr(error, "code")
