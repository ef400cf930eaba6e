"""Operations that `torch.compile` must run as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def untraced(function: _Function) -> _Function:
    """`function`, left out of compiled graphs: its backward is written by hand and its loops over chunks are long,
    so that tracing them would take minutes and gain nothing.
    """
    wrapped: _Function = torch.compiler.disable(function)
    return wrapped
