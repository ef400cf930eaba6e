"""HGRN-2: a gated linear recurrence with matrix states (Qin et al. 2024, arXiv:2404.07904).

Equal to fla's `HGRN2Attention` in parameters and results: the key is one minus the forget gate, the value has no
activation, there is no output gate, and the output norm spans all heads with epsilon 1e-5.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from model.cache import LayerMemory
from model.config import ModelConfig, require_divisible
from model.linear import Linear
from model.mixers.interface import Mixer
from model.mixers.short_convolution import CONVOLUTION_TAPS, ShortConvolution
from model.norms import RMSNorm
from model.ops import few_rows
from model.ops.gated_linear_attention import (
    CHUNK_SIZES,
    chunk_gated_linear_attention,
    step_gated_linear_attention,
)
from model.ops.hgrn2_gate import hgrn2_gate
from model.plain_modules import are_plain, has_hooks, project, weights_of
from model.sequence import Sequence

OUTPUT_NORM_EPS = 1e-5


class HGRN2(Mixer):
    """Parameter names are fla's `{q,f,i,o}_proj`, `{q,f,i}_conv1d` and `g_norm`."""

    has_lower_bound = True

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        width = config.width
        self.head_dim = config.hgrn2_head_dim
        self.q_proj = Linear(width, width, bias=False)
        self.f_proj = Linear(width, width, bias=False)
        self.i_proj = Linear(width, width, bias=False)
        self.short_convolution = config.short_convolution
        if config.short_convolution:
            self.q_conv1d = ShortConvolution(width)
            self.f_conv1d = ShortConvolution(width)
            self.i_conv1d = ShortConvolution(width)
        self.g_norm = RMSNorm(width, OUTPUT_NORM_EPS)
        self.o_proj = Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """`lower_bound` `[width]` is the least forget gate of each channel; None (the first layer) is zero."""
        memory = None if sequence.cache is None else sequence.cache.layers[self.layer]
        if memory is not None and sequence.time == 1 and self._takes_compiled(hidden, memory):
            return self._step(hidden, memory, lower_bound)
        query, forget, value = project(hidden, self.q_proj, self.f_proj, self.i_proj)
        if self.short_convolution:
            query, forget, value = (
                convolution(part, sequence, memory, f"{name}_convolution")
                for name, convolution, part in (
                    ("q", self.q_conv1d, query),
                    ("f", self.f_conv1d, forget),
                    ("i", self.i_conv1d, value),
                )
            )
        state = None if memory is None else memory.get("state")
        if memory is not None and state is not None and sequence.time == 1 and few_rows.takes_compiled(query):
            mixed, memory["state"] = few_rows.hgrn2_step(query, forget, value, lower_bound, state)
            stepped: Tensor = self.o_proj(self.g_norm(mixed))
            return stepped
        key, log_decay = hgrn2_gate(forget, lower_bound)
        query, key, value, log_decay = (
            part.unflatten(-1, (-1, self.head_dim)) for part in (functional.silu(query), key, value, log_decay)
        )
        mixed = self._recur(query, key, value, log_decay, sequence, memory)
        output: Tensor = self.o_proj(self.g_norm(mixed.flatten(2)))
        return output

    def _takes_compiled(self, hidden: Tensor, memory: LayerMemory) -> bool:
        return (
            "state" in memory
            and few_rows.takes_compiled(hidden)
            and are_plain(self.q_proj, self.f_proj, self.i_proj, self.o_proj, self.g_norm)
            and all(
                few_rows.is_readable(convolution.weight) and not has_hooks(convolution)
                for convolution in self._convolutions()
            )
        )

    def _step(self, hidden: Tensor, memory: LayerMemory, lower_bound: Tensor | None) -> Tensor:
        """One token in one compiled loop."""
        slots = [f"{name}_convolution" for name in "qfi"] if self.short_convolution else []
        weights = [convolution.weight for convolution in self._convolutions()]
        projections = weights_of((self.q_proj, self.f_proj, self.i_proj, self.o_proj))
        inputs = [memory[slot] for slot in slots]
        norm = self.g_norm
        output, remembered, memory["state"] = few_rows.hgrn2_layer(
            hidden, projections, weights, inputs, norm.weight, norm.eps, lower_bound, memory["state"]
        )
        memory.update(zip(slots, remembered, strict=True))
        return output

    def _convolutions(self) -> list[ShortConvolution]:
        return [self.q_conv1d, self.f_conv1d, self.i_conv1d] if self.short_convolution else []

    def _recur(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        sequence: Sequence,
        memory: dict[str, Tensor] | None,
    ) -> Tensor:
        if memory is None:
            return chunk_gated_linear_attention(
                query,
                key,
                value,
                log_decay,
                document_starts=sequence.document_starts,
                sequence_parallel=sequence.sequence_parallel,
            )[0]
        state = memory.get("state")
        if sequence.time == 1 and state is not None:
            mixed, memory["state"] = step_gated_linear_attention(
                query[:, 0], key[:, 0], value[:, 0], log_decay[:, 0], state
            )
            return mixed.unsqueeze(1)
        mixed, memory["state"] = chunk_gated_linear_attention(query, key, value, log_decay, initial_state=state)
        return mixed

    @staticmethod
    def check(config: ModelConfig) -> None:
        """Heads must divide the width evenly."""
        require_divisible(config, "width", "hgrn2_head_dim")

    @staticmethod
    def parameter_count(config: ModelConfig) -> int:
        """Four square projections, three convolutions, the output norm."""
        convolutions = 3 * CONVOLUTION_TAPS * config.width if config.short_convolution else 0
        return HGRN2.linear_parameter_count(config) + convolutions + config.width

    @staticmethod
    def linear_parameter_count(config: ModelConfig) -> int:
        """The projections."""
        return 4 * config.width**2

    @staticmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        """The chunked form: two products within the chunk, two with the state; and the convolutions."""
        chunk = min(CHUNK_SIZES[0], context)
        convolutions = 3 * 2 * CONVOLUTION_TAPS * config.width if config.short_convolution else 0
        return 4 * config.width * (chunk + config.hgrn2_head_dim) + convolutions

    @staticmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        """A matrix a head in float32, and the convolutions' last inputs: the same at any context."""
        state = 4 * config.width * config.hgrn2_head_dim
        inputs = 3 * (CONVOLUTION_TAPS - 1) * config.width if config.short_convolution else 0
        return 0, state + inputs * element_bytes

    @staticmethod
    def saved_elements(config: ModelConfig, context: int) -> float:
        """The convolutions' inputs; what gate and activation saw; queries, keys, values, decays and scores of the
        chunks; states between them; the norm's and the output projection's inputs.
        """
        width, chunk = config.width, CHUNK_SIZES[0]
        chunks = math.ceil(context / chunk)
        inputs = 3 * width if config.short_convolution else 0
        in_chunks = (4 * width + width // config.hgrn2_head_dim * chunk) * chunks * chunk / context
        states = width * config.hgrn2_head_dim * (chunks + 1) / context
        return inputs + 3 * width + in_chunks + states + 2 * width + 1
