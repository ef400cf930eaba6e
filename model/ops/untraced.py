"""Operations that `torch.compile` must run as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def untraced(function: _Function) -> _Function:
    """`function`, left out of compiled graphs: its backward is written by hand and its loops over chunks are long,
    so that tracing them would take minutes and gain nothing.
    """
    # As `torch.compiler.disable`, which loads the compiler, a second of every process's start, when it decorates.
    return cast("_Function", torch._disable_dynamo(function))
