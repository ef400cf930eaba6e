"""What the graphs' layers share: the call's tokens, the states' descriptions, projections, norms and convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from model.errors import ConfigurationError
from model.linear import Linear
from model.mixers.short_convolution import CONVOLUTION_TAPS, ShortConvolution
from model.norms import RMSNorm
from model.ops.rotary import RotaryTables

#: Sizes of a state that are known only when the graph runs.
BATCH, PAST = "batch", "past"


class StateSpec(BaseModel):
    """One tensor a graph takes and gives back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="`layers.<index>.<slot>`; the output's name has `next.` in front.")
    shape: tuple[int | str, ...] = Field(
        description="`batch` and `past` (tokens seen so far) stand for sizes that vary."
    )


class Tokens(NamedTuple):
    """The tokens of one call, as the layers see them."""

    time: int
    rotary: RotaryTables
    #: `[1, time, 1]`, 1 for a token and 0 for padding after the last; None when there is no padding.
    real: Tensor | None
    #: How many of them are real.
    real_count: Tensor | int


@dataclass(frozen=True)
class Projections:
    """Makes graph projections of a model's linear layers, refusing what is not plainly linear."""

    owner: str

    def __call__(self, module: nn.Module, name: str, outputs: slice = slice(None)) -> Projection:
        # Exactly these, not their subclasses, which may hold more than a matrix.
        if type(module) not in (nn.Linear, Linear):
            raise ConfigurationError(
                f"{self.owner}.{name} is a {type(module).__name__}, which a graph cannot hold: merge adapters "
                "(merge_and_unload) and export the float model, then quantize the graphs"
            )
        assert isinstance(module, nn.Linear)
        return Projection(module, outputs)


class Projection(nn.Module):
    """A linear layer whose matrix lies as ONNX's MatMul reads it, `[in, out]`, so that nothing is turned at load."""

    def __init__(self, linear: nn.Linear, outputs: slice) -> None:
        super().__init__()
        matrix = linear.weight.detach()[outputs].float().t().contiguous()
        self.weight = nn.Parameter(matrix, requires_grad=False)
        self.bias = None if linear.bias is None else frozen(linear.bias[outputs])

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, time, in]` to `[batch, time, out]`."""
        output: Tensor = torch.matmul(hidden, self.weight)
        return output if self.bias is None else output + self.bias


class GraphNorm(nn.Module):
    """`RMSNorm` in elementary operators, which runtimes recognise and fuse."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = frozen(norm.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., width]` to the same shape."""
        square = hidden.pow(2).mean(dim=-1, keepdim=True)
        output: Tensor = hidden * torch.rsqrt(square + self.eps) * self.weight
        return output


class GraphConvolution(nn.Module):
    """`ShortConvolution` as a sum of shifted rows; its state is the last inputs before padding."""

    def __init__(self, convolution: ShortConvolution) -> None:
        super().__init__()
        self.silu = convolution.silu
        self.weight = nn.Parameter(convolution.weight.detach().float()[:, 0].t().contiguous(), requires_grad=False)
        self.bias = None if convolution.bias is None else frozen(convolution.bias)

    def forward(self, inputs: Tensor, state: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """`inputs` `[batch, time, channels]` after `state` `[batch, taps - 1, channels]`."""
        padded = torch.cat([state, inputs], dim=1)
        output = padded[:, : tokens.time] * self.weight[0]
        for tap in range(1, CONVOLUTION_TAPS):
            output = output + padded[:, tap : tap + tokens.time] * self.weight[tap]
        if self.bias is not None:
            output = output + self.bias
        last = torch.arange(CONVOLUTION_TAPS - 1) + tokens.real_count
        return functional.silu(output) if self.silu else output, padded.index_select(1, last)


def convolution_state(name: str, channels: int) -> StateSpec:
    """The state of a `GraphConvolution`."""
    return StateSpec(name=name, shape=(BATCH, CONVOLUTION_TAPS - 1, channels))


def heads_first(tensor: Tensor, head_dim: int) -> Tensor:
    """`[batch, time, heads * head_dim]` to `[batch, heads, time, head_dim]`."""
    heads: Tensor = tensor.unflatten(-1, (-1, head_dim))
    return heads.transpose(1, 2)


def joined(heads: Tensor) -> Tensor:
    """The way back of `heads_first`."""
    return heads.transpose(1, 2).flatten(2)


def masked(tensor: Tensor, tokens: Tokens) -> Tensor:
    """`tensor` `[batch, time, channels]` with zeros for padding."""
    return tensor if tokens.real is None else tensor * tokens.real


def frozen(tensor: Tensor) -> nn.Parameter:
    """A copy of a weight that a graph holds, in float32."""
    return nn.Parameter(tensor.detach().float().clone(), requires_grad=False)
