"""Find, check and open a build of llama.cpp."""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections import deque
from enum import StrEnum
from functools import cache
from pathlib import Path

from model.errors import ModelError
from model.llama_cpp.source import build_directory, patched_library
from model.llama_cpp.structures import (
    FUNCTIONS,
    KNOWN_VERSIONS,
    QUANTIZER_FUNCTIONS,
    LogCallback,
    Signatures,
    unexpected_defaults,
)

#: Architectures that only the patched build knows.
PATCHED_ARCHITECTURES = frozenset({"hgrn2"})
_WARNING_LEVEL = 3
_KEPT_MESSAGES = 20


class Build(StrEnum):
    """The two builds of the pinned llama.cpp."""

    STOCK = "stock"
    PATCHED = "patched"


def build_for(architecture: str) -> Build:
    """The build that runs files of this architecture."""
    return Build.PATCHED if architecture in PATCHED_ARCHITECTURES else Build.STOCK


def available_builds() -> frozenset[Build]:
    """The builds present on this machine."""
    present = {Build.STOCK: wheel_library() is not None, Build.PATCHED: patched_library() is not None}
    return frozenset(build for build, found in present.items() if found)


def wheel_library() -> Path | None:
    """The shared library of the `xllamacpp` wheel, found without importing (and so starting) its server."""
    spec = importlib.util.find_spec("xllamacpp")
    found = sorted(Path(spec.origin).parent.glob("*.so")) if spec is not None and spec.origin else []
    return found[0] if found else None


def library_path(build: Build) -> Path:
    """Where a build's library is. Raises ModelError, saying how to get it, when it is not there."""
    if build is Build.STOCK:
        path = wheel_library()
        if path is None:
            raise ModelError(
                "the package 'xllamacpp', which carries llama.cpp, is not installed: pip install xllamacpp"
            )
        return path
    path = patched_library()
    if path is None:
        raise ModelError(
            f"llama.cpp with this project's hgrn2 architecture is not built (looked in '{build_directory()}'): "
            "run `make llama` once, or open the file with the torch runtime"
        )
    return path


class Library:
    """A checked and started llama.cpp; its functions are attributes of `functions`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions = _open(path)
        self.has_quantizer = all(hasattr(self.functions, name) for name in QUANTIZER_FUNCTIONS)
        _check_version(self.functions, path)
        _declare(self.functions, FUNCTIONS, path)
        _check_layout(self.functions, "llama_model_default_params", path)
        _check_layout(self.functions, "llama_context_default_params", path)
        if self.has_quantizer:
            _declare(self.functions, QUANTIZER_FUNCTIONS, path)
            _check_layout(self.functions, "llama_model_quantize_default_params", path)
        self._messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
        # ctypes frees a callback that nothing refers to.
        self._log_callback = LogCallback(self._log)
        self.functions.llama_log_set(self._log_callback, None)
        self.functions.llama_backend_init()

    def forget_messages(self) -> None:
        """Before a call whose messages matter."""
        self._messages.clear()

    def complaint(self) -> str:
        """What the library warned of since `forget_messages`, on one line."""
        return "; ".join(message for message in self._messages if message) or "no reason given"

    def _log(self, level: int, text: bytes, _: object) -> None:
        if level >= _WARNING_LEVEL:
            self._messages.append(" ".join(text.decode("utf-8", "replace").split()))


_opening = threading.Lock()


def open_library(build: Build) -> Library:
    """The library of a build, opened once a process.

    Raises ModelError when it is not installed, cannot be loaded, or is not of the version this binding is for.
    """
    path = library_path(build)
    with _opening:
        return _open_once(path)


@cache
def _open_once(path: Path) -> Library:
    return Library(path)


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ModelError(f"llama.cpp at '{path}' cannot be loaded ({error}): install or build it again") from error


def _check_version(functions: ctypes.CDLL, path: Path) -> None:
    found = []
    for name in ("llama_version", "ggml_version"):
        function = getattr(functions, name, None)
        if function is None:
            raise ModelError(f"'{path}' has no function {name}: it is no llama.cpp this binding knows")
        function.restype = ctypes.c_char_p
        found.append(function().decode())
    if tuple(found) not in KNOWN_VERSIONS:
        known = " or ".join(f"{llama} with ggml {ggml}" for llama, ggml in sorted(KNOWN_VERSIONS))
        raise ModelError(
            f"'{path}' is llama.cpp {found[0]} with ggml {found[1]}, but this binding is for {known}: "
            "install the pinned xllamacpp (constraints.txt), or run `make llama` for the patched build"
        )


def _declare(functions: ctypes.CDLL, signatures: Signatures, path: Path) -> None:
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, name, None)
        if function is None:
            raise ModelError(f"'{path}' has no function {name}: install the pinned version of it")
        function.restype, function.argtypes = result, arguments


def _check_layout(functions: ctypes.CDLL, name: str, path: Path) -> None:
    wrong = unexpected_defaults(getattr(functions, name)())
    if wrong:
        raise ModelError(
            f"'{path}' lays out the result of {name} differently from this binding (fields {', '.join(wrong)}): "
            "install the pinned version of it"
        )
