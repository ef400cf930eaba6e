"""The short causal convolution in front of the linear mixers, as a layer with a memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.cache import LayerMemory
from model.ops import few_rows
from model.ops.convolution import next_convolution_state, short_convolution
from model.ops.convolution_silu import convolution_silu
from model.sequence import Sequence
from model.sequence_parallel.collectives import from_previous_rank

CONVOLUTION_TAPS = 4


class ShortConvolution(nn.Module):
    """Depthwise, 4 taps; parameters as fla and mamba_ssm name them: `weight [channels, 1, taps]`, `bias [channels]`."""

    def __init__(self, channels: int, bias: bool = False, silu: bool = False) -> None:
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.empty(channels, 1, CONVOLUTION_TAPS))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """`nn.Conv1d`'s own initialisation: uniform within taps ** -0.5."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(CONVOLUTION_TAPS**-0.5), CONVOLUTION_TAPS**-0.5)

    def forward(self, inputs: Tensor, sequence: Sequence, memory: LayerMemory | None, slot: str) -> Tensor:
        """`[batch, time, channels]` to the same shape; reads and advances `slot` of the layer's memory, if any."""
        state = None
        if memory is not None:
            state = memory.get(slot)
            if sequence.time == 1 and state is not None and self._takes_compiled(inputs, state):
                weight, bias = self.weight, self.bias
                output, memory[slot] = few_rows.convolution_step(inputs, weight, bias, state, self.silu)
                return output
            memory[slot] = next_convolution_state(inputs, CONVOLUTION_TAPS, state)
        if sequence.sequence_parallel is not None:
            state = from_previous_rank(inputs, CONVOLUTION_TAPS - 1, sequence.sequence_parallel)
        positions = sequence.document_positions
        if self.silu:
            return convolution_silu(inputs, self.weight, self.bias, state=state, document_positions=positions)
        output = short_convolution(inputs, self.weight, state=state, document_positions=positions)
        return output if self.bias is None else output + self.bias

    def _takes_compiled(self, inputs: Tensor, state: Tensor) -> bool:
        return few_rows.takes_compiled(inputs) and state.dtype == self.weight.dtype == torch.float32
