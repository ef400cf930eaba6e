"""Which implementation of the hot loops runs: numba's compiled one, or numpy's with the same results.

`SAM2_TEXT_ENGINE=numpy` (or `numba`) decides; otherwise numba is used where it can be imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, Literal, TypeVar, cast

from infra.errors import ConfigurationError

ENGINE_VARIABLE = "SAM2_TEXT_ENGINE"
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class Engine(StrEnum):
    """The two implementations."""

    NUMBA = "numba"
    NUMPY = "numpy"


def engine() -> Engine:
    """The implementation to use; raises ConfigurationError for an unknown or unavailable choice."""
    return _engine_of(os.environ.get(ENGINE_VARIABLE, ""))


@cache
def _engine_of(choice: str) -> Engine:
    available = importlib.util.find_spec("numba") is not None
    if not choice:
        return Engine.NUMBA if available else Engine.NUMPY
    if choice not in set(Engine):
        raise ConfigurationError(
            f"{ENGINE_VARIABLE} is '{choice}'.", f"set it to one of {', '.join(Engine)}, or leave it unset."
        )
    if choice == Engine.NUMBA and not available:
        raise ConfigurationError(f"{ENGINE_VARIABLE} is 'numba', which is not installed.", "pip install numba.")
    return Engine(choice)


def compiled(function: FunctionT) -> FunctionT:
    """Compile a loop over arrays with numba, once per machine (the result is cached beside the source).

    Runs without the interpreter's lock. Where numba is missing the function is returned as it is:
    callers look at `engine()` and never call it then.
    """
    return _compile(function, inline="never")


def compiled_inline(function: FunctionT) -> FunctionT:
    """Like `compiled`, for small helpers that are copied into the loops that call them."""
    return _compile(function, inline="always")


def _compile(function: FunctionT, inline: Literal["never", "always"]) -> FunctionT:
    if importlib.util.find_spec("numba") is None:
        return function
    import numba
    from numba.core import entrypoints

    # At its first call numba imports every installed package that extends it (awkward: half a second a
    # process). Our loops use none; where this flag is gone, that is all that is lost.
    entrypoints._already_initialized = True
    return cast(FunctionT, numba.njit(cache=True, nogil=True, inline=inline)(function))
