"""The mixers as graphs compute them: explicit states, one token or one padded chunk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.errors import ConfigurationError
from model.exports.onnx import recurrences
from model.exports.onnx.parts import (
    BATCH,
    PAST,
    GraphConvolution,
    GraphNorm,
    Projections,
    StateSpec,
    Tokens,
    convolution_state,
    frozen,
    heads_first,
    joined,
    masked,
)
from model.mixers import HGRN2, Attention, GatedDeltaNet, Mamba2, Mixer
from model.ops.gated_delta_rule import L2_NORM_EPS
from model.ops.hgrn2_gate import LEAST_BOUND
from model.ops.rotary import rotate


class GraphMixer(nn.Module):
    """A mixer with its states as arguments. Padding after the last token leaves the states as they are."""

    def __init__(self, mixer: Mixer, states: list[StateSpec]) -> None:
        super().__init__()
        self.states = [StateSpec(name=f"layers.{mixer.layer}.{state.name}", shape=state.shape) for state in states]

    @abstractmethod
    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """`hidden` `[batch, time, width]`; gives the output of the same shape, then the states after the call."""


class GraphAttention(GraphMixer):
    """Softmax attention over keys and values so far; the call appends its own."""

    def __init__(self, mixer: Attention, config: ModelConfig, lower_bound: Tensor | None) -> None:
        shape = (BATCH, config.key_value_heads, PAST, config.head_dim)
        super().__init__(mixer, [StateSpec(name="keys", shape=shape), StateSpec(name="values", shape=shape)])
        project = Projections(f"layers.{mixer.layer}.attn")
        self.head_dim, self.groups = config.head_dim, config.key_value_heads
        self.share = config.attention_heads // config.key_value_heads
        self.q_proj, self.k_proj = project(mixer.q_proj, "q_proj"), project(mixer.k_proj, "k_proj")
        self.v_proj, self.o_proj = project(mixer.v_proj, "v_proj"), project(mixer.o_proj, "o_proj")
        self.query_key_norm = mixer.query_key_norm
        if mixer.query_key_norm:
            self.q_norm, self.k_norm = GraphNorm(mixer.q_norm), GraphNorm(mixer.k_norm)

    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """The heads of a group become rows of one product, so that keys are read once a group."""
        past_keys, past_values = states
        query, key = (part(hidden).unflatten(-1, (-1, self.head_dim)) for part in (self.q_proj, self.k_proj))
        if self.query_key_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, tokens.rotary), rotate(key, tokens.rotary)
        keys = torch.cat([past_keys, key.transpose(1, 2)], dim=2)
        values = torch.cat([past_values, heads_first(self.v_proj(hidden), self.head_dim)], dim=2)
        rows = query.transpose(1, 2).unflatten(1, (self.groups, self.share)).flatten(2, 3)
        scores = (rows * self.head_dim**-0.5) @ keys.transpose(-1, -2)
        if tokens.time > 1:
            scores = scores + _future(tokens.time, past_keys.shape[2]).repeat(self.share, 1)
        mixed = (scores.softmax(dim=-1) @ values).unflatten(2, (self.share, tokens.time)).flatten(1, 2)
        return self.o_proj(joined(mixed)), keys, values


def _future(time: int, past: int) -> Tensor:
    """`[time, past + time]`, minus infinity where the key is later than the query."""
    later = torch.full((time, time), float("-inf")).triu(1)
    return torch.cat([torch.zeros(time, past), later], dim=1)


class GraphHGRN2(GraphMixer):
    """HGRN-2 (see `model.mixers.hgrn2`)."""

    def __init__(self, mixer: HGRN2, config: ModelConfig, lower_bound: Tensor | None) -> None:
        heads = config.width // config.hgrn2_head_dim
        states = [StateSpec(name="state", shape=(BATCH, heads, config.hgrn2_head_dim, config.hgrn2_head_dim))]
        if mixer.short_convolution:
            states += [convolution_state(f"{name}_convolution", config.width) for name in "qfi"]
        super().__init__(mixer, states)
        project = Projections(f"layers.{mixer.layer}.attn")
        self.head_dim = config.hgrn2_head_dim
        self.q_proj, self.f_proj = project(mixer.q_proj, "q_proj"), project(mixer.f_proj, "f_proj")
        self.i_proj, self.o_proj = project(mixer.i_proj, "i_proj"), project(mixer.o_proj, "o_proj")
        self.short_convolution = mixer.short_convolution
        if mixer.short_convolution:
            self.conv1d = GraphConvolution(mixer.q_conv1d, mixer.f_conv1d, mixer.i_conv1d)
        self.g_norm = GraphNorm(mixer.g_norm)
        self.has_lower_bound = lower_bound is not None
        if lower_bound is not None:
            self.free = frozen(1 - lower_bound.float().clamp_min(LEAST_BOUND))

    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """`states` are the recurrent state, then the convolutions' inputs."""
        query, forget, value = self.q_proj(hidden), self.f_proj(hidden), self.i_proj(hidden)
        inputs: Sequence[Tensor] = ()
        if self.short_convolution:
            (query, forget, value), inputs = self.conv1d((query, forget, value), states[1:], tokens)
        key = torch.sigmoid(-forget)
        if self.has_lower_bound:
            key = key * self.free
        query = functional.silu(query) * self.head_dim**-0.5
        query, value, key_heads = (heads_first(part, self.head_dim) for part in (query, value, masked(key, tokens)))
        if tokens.time == 1:
            decay = heads_first(1 - key if self.has_lower_bound else torch.sigmoid(forget), self.head_dim)
            mixed, state = recurrences.step_gated_linear_attention(query, key_heads, value, decay, states[0])
        else:
            log_decay = recurrences.log1p(-key) if self.has_lower_bound else recurrences.log_sigmoid(forget)
            log_decay = heads_first(masked(log_decay, tokens), self.head_dim)
            mixed, state = recurrences.chunk_gated_linear_attention(query, key_heads, value, log_decay, states[0])
        return (self.o_proj(self.g_norm(joined(mixed))), state, *inputs)


class GraphGatedDeltaNet(GraphMixer):
    """Gated DeltaNet (see `model.mixers.gated_deltanet`)."""

    def __init__(self, mixer: GatedDeltaNet, config: ModelConfig, lower_bound: Tensor | None) -> None:
        heads, self.key_dim, self.value_dim = config.gated_deltanet_head_count, mixer.key_dim, mixer.value_dim
        channels = {"q": heads * mixer.key_dim, "k": heads * mixer.key_dim, "v": heads * mixer.value_dim}
        states = [StateSpec(name="state", shape=(BATCH, heads, mixer.key_dim, mixer.value_dim))]
        states += [convolution_state(f"{name}_convolution", size) for name, size in channels.items()]
        super().__init__(mixer, states)
        project = Projections(f"layers.{mixer.layer}.attn")
        self.q_proj, self.k_proj = project(mixer.q_proj, "q_proj"), project(mixer.k_proj, "k_proj")
        self.v_proj, self.g_proj = project(mixer.v_proj, "v_proj"), project(mixer.g_proj, "g_proj")
        self.a_proj, self.b_proj = project(mixer.a_proj, "a_proj"), project(mixer.b_proj, "b_proj")
        self.o_proj = project(mixer.o_proj, "o_proj")
        self.conv1d = GraphConvolution(mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)
        self.decay_rates, self.dt_bias = frozen(-mixer.A_log.float().exp()), frozen(mixer.dt_bias)
        self.o_norm = GraphNorm(mixer.o_norm)

    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """`states` are the recurrent state, then the convolutions' inputs."""
        parts = (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        (query, key, value), inputs = self.conv1d(parts, states[1:], tokens)
        query = _l2_normalised(heads_first(query, self.key_dim)) * self.key_dim**-0.5
        key, value = _l2_normalised(heads_first(key, self.key_dim)), heads_first(value, self.value_dim)
        log_decay = self.decay_rates * recurrences.softplus(self.a_proj(hidden) + self.dt_bias)
        strength = self.b_proj(hidden).sigmoid()
        log_decay, strength = (masked(part, tokens).transpose(1, 2) for part in (log_decay, strength))
        recur = recurrences.step_gated_delta_rule if tokens.time == 1 else recurrences.chunk_gated_delta_rule
        mixed, state = recur(query, key, value, log_decay, strength, states[0])
        gated = joined(self.o_norm(mixed)) * functional.silu(self.g_proj(hidden))
        return (self.o_proj(gated), state, *inputs)


class GraphMamba2(GraphMixer):
    """Mamba-2 (see `model.mixers.mamba2`)."""

    def __init__(self, mixer: Mamba2, config: ModelConfig, lower_bound: Tensor | None) -> None:
        heads = config.mamba2_inner_width // config.mamba2_head_dim
        self.parts, self.groups, self.head_dim = mixer.parts, mixer.groups, mixer.head_dim
        self.shared, self.state_size, self.eps = heads // mixer.groups, config.mamba2_state_size, mixer.norm.eps
        states = [
            StateSpec(name="state", shape=(BATCH, heads, config.mamba2_head_dim, config.mamba2_state_size)),
            convolution_state("convolution", mixer.parts[1]),
        ]
        super().__init__(mixer, states)
        project = Projections(f"layers.{mixer.layer}.attn")
        # The step sizes apart, so that a quantized graph can keep their digits.
        self.in_proj = project(mixer.in_proj, "in_proj", slice(mixer.parts[0] + mixer.parts[1]))
        self.dt_proj = project(mixer.in_proj, "in_proj", slice(mixer.parts[0] + mixer.parts[1], None))
        self.out_proj = project(mixer.out_proj, "out_proj")
        self.conv1d = GraphConvolution(mixer.conv1d)
        self.decay_rates, self.dt_bias = frozen(-mixer.A_log.float().exp()), frozen(mixer.dt_bias)
        self.skip, self.norm_weight = frozen(mixer.D.float().view(-1, 1, 1)), frozen(mixer.norm.weight)

    def forward(self, hidden: Tensor, tokens: Tokens, *states: Tensor) -> tuple[Tensor, ...]:
        """`states` are the recurrent state and the convolution's inputs."""
        gate, mixed = self.in_proj(hidden).split(self.parts[:2], dim=-1)
        (mixed,), inputs_after = self.conv1d([mixed], states[1:], tokens)
        shared = self.groups * self.state_size
        inputs, written, read = mixed.split((self.parts[0], shared, shared), dim=-1)
        inputs = heads_first(inputs, self.head_dim)
        written, read = (self._for_heads(part) for part in (written, read))
        step_sizes = masked(recurrences.softplus(self.dt_proj(hidden) + self.dt_bias), tokens)
        log_decay = (self.decay_rates * step_sizes).transpose(1, 2)
        recur = recurrences.step_state_space if tokens.time == 1 else recurrences.chunk_state_space
        stepped = inputs * step_sizes.transpose(1, 2).unsqueeze(-1)
        scanned, state = recur(stepped, log_decay, written, read, states[0])
        gated = joined(scanned + inputs * self.skip) * functional.silu(gate)
        grouped = gated.unflatten(-1, (self.groups, -1))
        normed = grouped * torch.rsqrt(grouped.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (self.out_proj(normed.flatten(2) * self.norm_weight), state, *inputs_after)

    def _for_heads(self, part: Tensor) -> Tensor:
        """`[batch, time, groups * state_size]` to `[batch, heads, time, state_size]`; a single group broadcasts."""
        groups = heads_first(part, self.state_size)
        return groups if self.groups == 1 else groups.repeat_interleave(self.shared, dim=1)


def _l2_normalised(heads: Tensor) -> Tensor:
    return heads * torch.rsqrt(heads.pow(2).sum(dim=-1, keepdim=True) + L2_NORM_EPS)


def graph_mixer(mixer: Mixer, config: ModelConfig, lower_bound: Tensor | None) -> GraphMixer:
    """The graph form of `mixer`."""
    for kind, form in GRAPH_MIXERS.items():
        if type(mixer) is kind:
            return form(mixer, config, lower_bound)
    known = ", ".join(sorted(kind.__name__ for kind in GRAPH_MIXERS))
    raise ConfigurationError(f"layer {mixer.layer} has a {type(mixer).__name__}: graphs can hold {known}")


GRAPH_MIXERS: dict[type[Mixer], Callable[..., GraphMixer]] = {
    Attention: GraphAttention,
    GatedDeltaNet: GraphGatedDeltaNet,
    HGRN2: GraphHGRN2,
    Mamba2: GraphMamba2,
}
