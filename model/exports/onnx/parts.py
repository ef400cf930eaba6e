"""What the graphs' layers share: the call's tokens, the states' descriptions, projections, norms and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
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
    """A layer's `ShortConvolution`s side by side, as one sum of shifted rows.

    Either all have a bias and a SiLU, or none. Their states are the last inputs before padding.
    """

    def __init__(self, *convolutions: ShortConvolution) -> None:
        super().__init__()
        self.silu = convolutions[0].silu
        self.channels = [len(one.weight) for one in convolutions]
        self.weight = frozen(torch.cat([one.weight.detach()[:, 0].t() for one in convolutions], dim=1))
        biases: list[Tensor] = [one.bias for one in convolutions if one.bias is not None]
        self.bias = frozen(torch.cat(biases)) if biases else None

    def forward(
        self, inputs: Sequence[Tensor], states: Sequence[Tensor], tokens: Tokens
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """`inputs` `[batch, time, channels]` after `states` `[batch, taps - 1, channels]`, one each."""
        padded = torch.cat([torch.cat(list(states), dim=-1), torch.cat(list(inputs), dim=-1)], dim=1)
        output = padded[:, : tokens.time] * self.weight[0]
        for tap in range(1, CONVOLUTION_TAPS):
            output = output + padded[:, tap : tap + tokens.time] * self.weight[tap]
        if self.bias is not None:
            output = output + self.bias
        last = torch.arange(CONVOLUTION_TAPS - 1) + tokens.real_count
        output = functional.silu(output) if self.silu else output
        return output.split(self.channels, dim=-1), padded.index_select(1, last).split(self.channels, dim=-1)


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
