"""Which llama.cpp the patched build is made from, and where it is kept."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

#: The `xllamacpp` release whose wheel we install: its source archive holds the very llama.cpp that the wheel was
#: built from, so the stock and the patched library have one interface.
PACKAGE = "xllamacpp"
VERSION = "2026.10.11549"
ARCHIVE_SHA256 = "c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b"
#: The folder of llama.cpp inside the archive.
SOURCE_FOLDER = "thirdparty/llama.cpp"

PATCH = Path(__file__).with_name("hgrn2.patch")
LIBRARY_NAME = "libllama.so"
#: Written last: a folder without it is an interrupted build.
MANIFEST_NAME = "build.json"
#: Overrides where the build is kept.
DIRECTORY_VARIABLE = "SAM2_LLAMA_CPP"


@cache
def patch_digest() -> str:
    """Of the patch's text: another patch, another build."""
    return hashlib.sha256(PATCH.read_bytes()).hexdigest()[:12]


def build_directory() -> Path:
    """Where the patched library is, or would be, installed."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache_home / "sam2" / f"llama.cpp-{VERSION}-{patch_digest()}"


def patched_library() -> Path | None:
    """The patched library, if a finished build is there."""
    directory = build_directory()
    return directory / LIBRARY_NAME if (directory / MANIFEST_NAME).is_file() else None
