"""Which modules' weights may be read in place of calling them, and projections that use it.

Adapters, quantized layers and hooks stand in a module's place or around it: nothing may bypass them.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.linear import Linear
from model.norms import RMSNorm
from model.ops import few_rows


def are_plain(*modules: nn.Module) -> bool:
    """Whether they are our own linears (without bias) and norms in float32 on CPU, with nothing around them."""
    return all(
        type(module) in (Linear, RMSNorm)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and few_rows.is_readable(module.weight)
        and getattr(module, "bias", None) is None
        for module in modules
    )


def project(hidden: Tensor, *projections: nn.Module) -> tuple[Tensor, ...]:
    """`hidden` through each of the projections, as if each were called; plain ones of a few rows at once."""
    if few_rows.takes_compiled(hidden) and are_plain(*projections):
        return few_rows.products(hidden, [projection.weight for projection in projections])
    return tuple(projection(hidden) for projection in projections)
