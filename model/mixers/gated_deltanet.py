"""Gated DeltaNet: a gated linear recurrence that overwrites what it stored under a key (arXiv:2412.06464).

Equal to fla's `GatedDeltaNet` with an output gate and short convolutions in parameters and results.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.cache import LayerMemory
from model.config import ModelConfig
from model.linear import Linear
from model.mixers.interface import Mixer
from model.mixers.short_convolution import CONVOLUTION_TAPS, ShortConvolution
from model.norms import RMSNorm
from model.ops import few_rows
from model.ops.gated_delta_rule import (
    CHUNK_SIZE,
    L2_NORM_EPS,
    chunk_gated_delta_rule,
    l2_normalised,
    step_gated_delta_rule,
)
from model.ops.norm_then_gate import norm_then_gate
from model.plain_modules import project
from model.sequence import Sequence

# Decay rates and time steps at the start of training, as in Mamba-2 and fla.
LARGEST_DECAY_RATE = 16.0
TIME_STEPS = (1e-3, 1e-1)


class NormThenGate(RMSNorm):
    """RMSNorm of each head, times `silu(gate)` when a gate is given (fla's `FusedRMSNormGated`)."""

    def forward(self, hidden: Tensor, gate: Tensor | None = None) -> Tensor:
        """`[..., width]` to the same shape; with a gate, of the same shape, to its dtype."""
        if gate is None:
            return super().forward(hidden)
        if few_rows.takes_compiled(hidden, gate, self.weight):
            return few_rows.gate_with_silu(gate, few_rows.rms_norm(hidden, self.weight, self.eps))
        return norm_then_gate(hidden, gate, self.weight, self.eps)


class GatedDeltaNet(Mixer):
    """Parameter names are fla's `{q,k,v,a,b,g,o}_proj`, `{q,k,v}_conv1d`, `A_log`, `dt_bias` and `o_norm`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        heads, self.key_dim, self.value_dim = _head_shape(config)
        keys, values = heads * self.key_dim, heads * self.value_dim
        self.q_proj = Linear(config.width, keys, bias=False)
        self.k_proj = Linear(config.width, keys, bias=False)
        self.v_proj = Linear(config.width, values, bias=False)
        self.a_proj = Linear(config.width, heads, bias=False)
        self.b_proj = Linear(config.width, heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.q_conv1d = ShortConvolution(keys, silu=True)
        self.k_conv1d = ShortConvolution(keys, silu=True)
        self.v_conv1d = ShortConvolution(values, silu=True)
        self.g_proj = Linear(config.width, values, bias=False)
        self.o_norm = NormThenGate(self.value_dim, config.norm_eps)
        self.o_proj = Linear(values, config.width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay rates `exp(A_log)` uniform in 0-16, time steps `softplus(dt_bias)` log-uniform in 0.001-0.1."""
        self.A_log.uniform_(0, LARGEST_DECAY_RATE).log_()
        time_step = self.dt_bias.uniform_(math.log(TIME_STEPS[0]), math.log(TIME_STEPS[1])).exp()
        self.dt_bias.copy_(time_step + torch.log(-torch.expm1(-time_step)))

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """Write corrections into the state of each head, read it, and gate what was read."""
        memory = None if sequence.cache is None else sequence.cache.layers[self.layer]
        query, key, value, gate, decay_input, beta_input = project(
            hidden, self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.a_proj, self.b_proj
        )
        query = self.q_conv1d(query, sequence, memory, "q_convolution")
        key = self.k_conv1d(key, sequence, memory, "k_convolution")
        value = self.v_conv1d(value, sequence, memory, "v_convolution")
        state = None if memory is None else memory.get("state")
        if memory is not None and state is not None and sequence.time == 1 and self._takes_compiled(value, gate):
            inputs = (query, key, value, decay_input, beta_input, self.A_log, self.dt_bias)
            mixed, memory["state"] = few_rows.gated_delta_step(*inputs, state, L2_NORM_EPS)
            stepped: Tensor = self.o_proj(self._gated(mixed.unflatten(-1, (-1, self.value_dim)), gate))
            return stepped
        query, key = (l2_normalised(part.unflatten(-1, (-1, self.key_dim))) for part in (query, key))
        value = value.unflatten(-1, (-1, self.value_dim))
        time_step = functional.softplus(decay_input.float() + self.dt_bias.float())
        log_decay = -self.A_log.float().exp() * time_step
        beta = beta_input.float().sigmoid()
        mixed = self._recur(query, key, value, log_decay, beta, sequence, memory)
        output: Tensor = self.o_proj(self._gated(mixed, gate))
        return output

    def _gated(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """`mixed` `[batch, time, heads, value_dim]`, `gate` `[batch, time, heads * value_dim]`, to the gate's shape."""
        gated: Tensor = self.o_norm(mixed, gate.view(mixed.shape))
        return gated.flatten(2)

    def _takes_compiled(self, value: Tensor, gate: Tensor) -> bool:
        return few_rows.takes_compiled(value, gate, self.A_log, self.dt_bias)

    def _recur(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        beta: Tensor,
        sequence: Sequence,
        memory: LayerMemory | None,
    ) -> Tensor:
        if memory is None:
            return chunk_gated_delta_rule(
                query,
                key,
                value,
                log_decay,
                beta,
                document_starts=sequence.document_starts,
                sequence_parallel=sequence.sequence_parallel,
            )[0]
        state = memory.get("state")
        if sequence.time == 1 and state is not None:
            mixed, memory["state"] = step_gated_delta_rule(
                query[:, 0], key[:, 0], value[:, 0], log_decay[:, 0], beta[:, 0], state
            )
            return mixed.unsqueeze(1)
        mixed, memory["state"] = chunk_gated_delta_rule(query, key, value, log_decay, beta, initial_state=state)
        return mixed

    @staticmethod
    def check(config: ModelConfig) -> None:
        """Any positive head size and number of heads can be built."""

    @staticmethod
    def parameter_count(config: ModelConfig) -> int:
        """Seven projections, three convolutions, a decay rate and a time step a head, the output norm."""
        heads, _, value_dim = _head_shape(config)
        small = CONVOLUTION_TAPS * _channels(config) + 2 * heads + value_dim
        return GatedDeltaNet.linear_parameter_count(config) + small

    @staticmethod
    def linear_parameter_count(config: ModelConfig) -> int:
        """The projections: 6 * width^2 and a little for the gates, at the default heads and expansion."""
        heads, key_dim, value_dim = _head_shape(config)
        return config.width * heads * (2 * key_dim + 3 * value_dim + 2)

    @staticmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        """The chunked form a token and head: products within the chunk and with the state; and the convolutions.

        Within: keys and queries with keys, the triangular inverse (a third of a cube), its products with keys
        and values, scores with values. With the state: what is removed, what is written, what is read.
        """
        heads, key_dim, value_dim = _head_shape(config)
        chunk = min(CHUNK_SIZE, context)
        within = chunk * (3 * key_dim + 2 * value_dim) + chunk**2 / 3
        return 2 * heads * (within + 3 * key_dim * value_dim) + 2 * CONVOLUTION_TAPS * _channels(config)

    @staticmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        """A matrix a head in float32, and the convolutions' last inputs: the same at any context."""
        heads, key_dim, value_dim = _head_shape(config)
        return 0, 4 * heads * key_dim * value_dim + (CONVOLUTION_TAPS - 1) * _channels(config) * element_bytes

    @staticmethod
    def saved_elements(config: ModelConfig, context: int) -> float:
        """Inputs of convolutions, norms and gates; of each chunk queries, keys (three ways), corrections and four
        matrices; the states between chunks.
        """
        heads, chunks = config.gated_deltanet_head_count, math.ceil(context / CHUNK_SIZE)
        keys = heads * config.gated_deltanet_head_dim
        values = keys * config.gated_deltanet_value_expansion
        padded = chunks * CHUNK_SIZE / context
        in_chunks = padded * (4 * keys + values + heads * (4 * CHUNK_SIZE + 1))
        states = (chunks + 1) * values * config.gated_deltanet_head_dim / context
        return 4 * keys + 5 * values + 6 * heads + in_chunks + states


def _head_shape(config: ModelConfig) -> tuple[int, int, int]:
    """Heads, key size and value size of each."""
    key_dim = config.gated_deltanet_head_dim
    return config.gated_deltanet_head_count, key_dim, config.gated_deltanet_value_expansion * key_dim


def _channels(config: ModelConfig) -> int:
    """Channels that pass through convolutions: queries, keys and values."""
    heads, key_dim, value_dim = _head_shape(config)
    return heads * (2 * key_dim + value_dim)
