"""Which modules' weights may be read in place of calling them, and projections that use it.

Adapters, quantized layers and hooks stand in a module's place or around it: nothing may bypass them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from model.linear import Linear
from model.norms import RMSNorm
from model.ops import few_rows


def are_plain(*modules: nn.Module) -> bool:
    """Whether they are our own linears (without bias) and norms in float32 on CPU, with nothing around them."""
    for module in modules:
        if type(module) is not Linear and type(module) is not RMSNorm:
            return False
        # Read from the dictionary: an attribute of a module takes several times as long to find.
        parameters = module._parameters
        weight = parameters.get("weight")
        if weight is None or not few_rows.is_readable(weight) or parameters.get("bias") is not None:
            return False
        if has_hooks(module):
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its `forward`."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def weights_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The weights of plain modules."""
    return [module._parameters["weight"] for module in modules]  # type: ignore[misc]


def project(hidden: Tensor, *projections: nn.Module) -> tuple[Tensor, ...]:
    """`hidden` through each of the projections, as if each were called; plain ones of a few rows at once."""
    if few_rows.takes_compiled(hidden) and are_plain(*projections):
        return few_rows.products(hidden, weights_of(projections))
    return tuple(projection(hidden) for projection in projections)
