"""The files of a model directory: their names, and how a complete one gets its name."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
#: Of weights in several files (Hugging Face's layout): which tensor is where.
INDEX_FILE = WEIGHTS_FILE + ".index.json"


def publish(temporary: Path, final: Path) -> None:
    """Give a complete file its name, durably: a crash leaves the old file or the new one, never half of one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
