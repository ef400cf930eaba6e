"""Parameters counted from the model itself, built on torch's meta device: every tensor has its shape and no memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from model import HybridLM, ModelConfig
from tasks.planning.plan import ParameterTable

_FILLING = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_)


class _Uninitialised(TorchFunctionMode):
    """Leaves out what fills tensors: on the meta device nothing is filled, but finding that out takes two seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if function in _FILLING else function(*args, **(kwargs or {}))


_NORMS = ("attn_norm.weight", "mlp_norm.weight")


@lru_cache(maxsize=32)
def count_parameters(config: ModelConfig) -> ParameterTable:
    """Parameters by component; a head that is the embedding again counts 0.

    Raises ValueError for a parameter that belongs to no component, so that none is ever left out.
    """
    with torch.device("meta"), _Uninitialised():
        model = HybridLM(config)
    counted: dict[str, int] = {}
    mixers: dict[str, int] = dict.fromkeys(config.mixer_kinds, 0)
    for name, parameter in model.named_parameters():
        component = _component(name)
        if component == "mixer":
            mixers[config.mixer_kinds[int(name.split(".")[1])]] += parameter.numel()
        else:
            counted[component] = counted.get(component, 0) + parameter.numel()
    components = ("embedding", "feed_forward", "norms", "lower_bounds", "head")
    return ParameterTable(**{component: counted.get(component, 0) for component in components}, mixers=mixers)


def _component(name: str) -> str:
    whole = {
        "embeddings.weight": "embedding",
        "lm_head.weight": "head",
        "norm.weight": "norms",
        "lower_bounds": "lower_bounds",
    }
    if name in whole:
        return whole[name]
    _, _, part = name.removeprefix("layers.").partition(".")
    if name.startswith("layers.") and part in _NORMS:
        return "norms"
    if part.startswith("attn."):
        return "mixer"
    if part.startswith("mlp."):
        return "feed_forward"
    raise ValueError(f"parameter '{name}' belongs to no component of the table; add it to tasks/planning/parameters.py")
