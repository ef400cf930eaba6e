"""Mamba-2: a selective state space with scalar decays (Dao & Gu 2024, arXiv:2405.21060).

Equal to mamba_ssm's `Mamba2` and transformers' `GraniteMoeHybridMambaLayer` in parameters and results: one input
projection whose rows are z | x | B | C | dt, a convolution with bias and SiLU over x, B and C, and an RMSNorm after
the gate, over each group's channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.cache import LayerMemory
from model.config import ModelConfig
from model.errors import ConfigurationError
from model.linear import Linear
from model.mixers.interface import Mixer
from model.mixers.short_convolution import CONVOLUTION_TAPS, ShortConvolution
from model.ops import few_rows
from model.ops.gated_norm import gated_rms_norm
from model.ops.state_space_duality import CHUNK_SIZE, chunk_state_space_duality, step_state_space_duality
from model.sequence import Sequence

# mamba_ssm's initialisation: decay rates -A uniform, step sizes log-uniform where their pre-activation is zero.
DECAY_RATES = (1.0, 16.0)
STEP_SIZES = (1e-3, 1e-1)
LEAST_STEP_SIZE = 1e-4


class Mamba2(Mixer):
    """Parameter names are mamba_ssm's: `in_proj`, `conv1d`, `dt_bias`, `A_log`, `D`, `norm`, `out_proj`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        inner, heads = config.mamba2_inner_width, _heads(config)
        self.head_dim, self.groups = config.mamba2_head_dim, config.mamba2_groups
        self.parts = (inner, inner + 2 * config.mamba2_groups * config.mamba2_state_size, heads)
        self.in_proj = Linear(config.width, sum(self.parts), bias=False)
        self.conv1d = ShortConvolution(self.parts[1], bias=True, silu=True)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, config.mamba2_groups, config.norm_eps)
        self.out_proj = Linear(inner, config.width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """mamba_ssm's initialisation of decays and step sizes; the linears are the model's to initialise."""
        self.A_log.uniform_(*DECAY_RATES).log_()
        low, high = (math.log(size) for size in STEP_SIZES)
        sizes = torch.empty_like(self.dt_bias).uniform_(low, high).exp_().clamp_min_(LEAST_STEP_SIZE)
        self.dt_bias.copy_(sizes + torch.log(-torch.expm1(-sizes)))

    def forward(self, hidden: Tensor, sequence: Sequence, lower_bound: Tensor | None) -> Tensor:
        """`[batch, time, width]` to the same shape."""
        memory = None if sequence.cache is None else sequence.cache.layers[self.layer]
        gate, mixed, raw_step_sizes = self.in_proj(hidden).split(self.parts, dim=-1)
        mixed = self.conv1d(mixed, sequence, memory, "convolution")
        state = None if memory is None else memory.get("state")
        scalars = (self.dt_bias, self.A_log, self.D)
        if memory is not None and state is not None and sequence.time == 1 and few_rows.takes_compiled(mixed, *scalars):
            read, memory["state"] = few_rows.state_space_step(mixed, raw_step_sizes, *scalars, state, self.groups)
            stepped: Tensor = self.out_proj(self.norm(read, gate))
            return stepped
        step_sizes = functional.softplus(raw_step_sizes.float() + self.dt_bias.float())
        scanned = self._recur(mixed, step_sizes, sequence, memory)
        output: Tensor = self.out_proj(self.norm(scanned.flatten(2), gate))
        return output

    def _recur(self, mixed: Tensor, step_sizes: Tensor, sequence: Sequence, memory: LayerMemory | None) -> Tensor:
        shared = (self.parts[1] - self.parts[0]) // 2
        inputs, B, C = mixed.split((self.parts[0], shared, shared), dim=-1)
        inputs = inputs.unflatten(-1, (-1, self.head_dim))
        B, C = (part.unflatten(-1, (self.groups, -1)) for part in (B, C))
        decay_rates = -self.A_log.float().exp()
        if memory is None:
            return chunk_state_space_duality(
                inputs,
                step_sizes,
                decay_rates,
                B,
                C,
                skip=self.D,
                document_starts=sequence.document_starts,
                sequence_parallel=sequence.sequence_parallel,
            )[0]
        state = memory.get("state")
        if sequence.time == 1 and state is not None:
            output, memory["state"] = step_state_space_duality(
                inputs[:, 0], step_sizes[:, 0], decay_rates, B[:, 0], C[:, 0], state, skip=self.D
            )
            return output.unsqueeze(1)
        output, memory["state"] = chunk_state_space_duality(
            inputs, step_sizes, decay_rates, B, C, skip=self.D, initial_state=state
        )
        return output

    @staticmethod
    def check(config: ModelConfig) -> None:
        """Heads must divide the inner width evenly, and groups the heads."""
        inner = config.mamba2_inner_width
        if inner % config.mamba2_head_dim:
            raise ConfigurationError(
                f"mamba2_head_dim={config.mamba2_head_dim} does not divide mamba2_expansion * width = {inner}: "
                "choose a divisor of it"
            )
        if _heads(config) % config.mamba2_groups:
            raise ConfigurationError(
                f"mamba2_groups={config.mamba2_groups} does not divide the {_heads(config)} heads "
                "(mamba2_expansion * width / mamba2_head_dim): choose a divisor of them"
            )

    @staticmethod
    def parameter_count(config: ModelConfig) -> int:
        """Two projections, the convolution, three values a head, the norm."""
        convolution = (CONVOLUTION_TAPS + 1) * _convolution_channels(config)
        return Mamba2.linear_parameter_count(config) + convolution + 3 * _heads(config) + config.mamba2_inner_width

    @staticmethod
    def linear_parameter_count(config: ModelConfig) -> int:
        """The projections."""
        inner = config.mamba2_inner_width
        return config.width * (inner + _convolution_channels(config) + _heads(config) + inner)

    @staticmethod
    def mixing_flops(config: ModelConfig, context: int) -> float:
        """The chunked form: scores once a group, their use, two products with the state; and the convolution."""
        inner, size, chunk = config.mamba2_inner_width, config.mamba2_state_size, min(CHUNK_SIZE, context)
        scores = 2 * chunk * size * config.mamba2_groups
        return scores + 2 * inner * (chunk + 2 * size) + 2 * CONVOLUTION_TAPS * _convolution_channels(config)

    @staticmethod
    def cache_bytes(config: ModelConfig, context: int, element_bytes: int) -> tuple[int, int]:
        """A matrix a head in float32, and the convolution's last inputs: the same at any context."""
        state = 4 * config.mamba2_inner_width * config.mamba2_state_size
        inputs = (CONVOLUTION_TAPS - 1) * _convolution_channels(config)
        return 0, state + inputs * element_bytes

    @staticmethod
    def saved_elements(config: ModelConfig, context: int) -> float:
        """What the input projection gave, whole; the convolution's output; the states between chunks and what was
        read from them; the inputs of the gated norm and of the output projection.
        """
        inner, heads = config.mamba2_inner_width, _heads(config)
        shared = 2 * config.mamba2_groups * config.mamba2_state_size
        states = inner * config.mamba2_state_size * (math.ceil(context / CHUNK_SIZE) + 1) / context
        return (2 * inner + shared + heads) + (inner + shared) + states + 3 * inner + 2 * heads + 1


class GatedRMSNorm(nn.Module):
    """RMSNorm, over each group's channels, of `hidden * silu(gate)` (mamba_ssm's, with the norm after the gate)."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor, gate: Tensor) -> Tensor:
        """`[..., width]`, both, to the same shape and the dtype of `hidden`."""
        if self.groups == 1 and few_rows.takes_compiled(hidden, gate, self.weight):
            return few_rows.rms_norm(few_rows.gate_with_silu(gate, hidden), self.weight, self.eps)
        return gated_rms_norm(hidden, gate, self.weight, self.groups, self.eps)


def _heads(config: ModelConfig) -> int:
    return config.mamba2_inner_width // config.mamba2_head_dim


def _convolution_channels(config: ModelConfig) -> int:
    return config.mamba2_inner_width + 2 * config.mamba2_groups * config.mamba2_state_size
