"""A DeepSpeed engine's weights and moments as this rank's fragments of whole fp32 tensors, whatever the ZeRO stage.

Without ZeRO every rank has everything and gives an equal share. With ZeRO 1-3 the fp32 weights and AdamW's moments
live in flat buffers, of which each rank has a partition: there, a fragment is a view of it, and nothing is
gathered. The moments are created here before the first update (DeepSpeed would do so during it), so that restoring
fills them in one way at every stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from infra.errors import ConfigurationError
from tasks.training.checkpoints import Fragment, TensorSource, deal, moment_key, weight_key
from tasks.training.optimizer import MOMENTS, moment_keys


class ShardedState:
    """What one rank holds of the training state, to be saved and restored.

    optimizer_step: updates the moments have seen, earlier curriculum stages included; the engine counts it up.
    """

    def __init__(self, engine: Any, parameters: Mapping[str, Any], zero_stage: int, optimizer: str) -> None:
        """engine: DeepSpeed's. parameters: its model's, by the names of HybridLM. optimizer: `adamw` or `muon`."""
        self.optimizer_step = 0
        self._engine = engine
        self._parameters = parameters
        self._zero_stage = zero_stage
        self._moments = {name: moment_keys(optimizer, name, parameter) for name, parameter in parameters.items()}
        if zero_stage:
            self._create_moments()

    def fragments(self, rank: int, ranks: int) -> list[Fragment]:
        """This rank's pieces of the weights, and of the moments once there was an update: views, not copies."""
        if self._zero_stage:
            return list(self._partition())
        weights = [Fragment(weight_key(name), shape, 0, value) for name, shape, value in self._whole_weights()]
        moments = [Fragment(name, shape, 0, value) for name, shape, value in self._whole_moments()]
        return [*deal(weights, rank, ranks), *deal(moments, rank, ranks)]

    @torch.no_grad()
    def restore_weights(self, source: TensorSource) -> None:
        """Set every parameter, in the precision of the passes and in the optimiser's fp32.

        Raises ConfigurationError when the source is of another model.
        """
        self._require(source, {weight_key(name): name for name in self._parameters})
        if self._zero_stage == 3:
            self._engine.optimizer.checkpoint_event_prologue()  # lets go of small weights that it keeps whole
        for flat in self._flat_buffers() if self._zero_stage else ():
            flat.zero_()  # padding, too, may have become nan
        for name, parameter in self._parameters.items():
            key = weight_key(name)
            if self._zero_stage < 3:  # the passes' weights are whole on every rank
                parameter.copy_(source.read(key, 0, parameter.numel()).view(parameter.shape))
            place = self._place(parameter) if self._zero_stage else None
            if place is not None:
                start, buffer = place[0], self._buffer(parameter)
                buffer.copy_(source.read(key, start, start + buffer.numel()))
                if self._zero_stage == 3:
                    parameter.ds_tensor.zero_()[: buffer.numel()].copy_(buffer)
        if self._zero_stage == 3:
            self._engine.optimizer.checkpoint_event_epilogue()  # gathers them again

    @torch.no_grad()
    def restore_moments(self, source: TensorSource, optimizer_step: int) -> None:
        """Set the optimiser's moments and the number of updates its bias correction has seen.

        Raises ConfigurationError when the source has other moments, another optimiser's.
        """
        self.optimizer_step = optimizer_step
        if optimizer_step == 0:
            self._forget_moments()
            return
        keys = {moment_key(key, name): name for name in self._parameters for key in self._moments[name]}
        self._require(source, keys)
        self._forget_moments()
        for name, parameter in self._parameters.items():
            if self._zero_stage:
                self._restore_partition(source, name, parameter)
            else:
                self._restore_whole(source, name, parameter)
        for flat in self._flat_buffers() if self._zero_stage else ():
            self._engine.optimizer.optimizer.state[flat]["step"].fill_(float(optimizer_step))

    def _restore_whole(self, source: TensorSource, name: str, parameter: Any) -> None:
        state: dict[str, Tensor] = {"step": torch.tensor(float(self.optimizer_step))}
        for key in self._moments[name]:
            values = source.read(moment_key(key, name), 0, parameter.numel())
            state[key] = values.view(parameter.shape).to(parameter.device)
        self._engine.optimizer.state[parameter] = state

    def _restore_partition(self, source: TensorSource, name: str, parameter: Any) -> None:
        place = self._place(parameter)
        for key in self._moments[name] if place is not None else ():
            assert place is not None
            buffer = self._buffer(parameter, key)
            buffer.copy_(source.read(moment_key(key, name), place[0], place[0] + buffer.numel()))

    def _partition(self) -> Iterator[Fragment]:
        """With ZeRO 1-3: this rank's fragments."""
        for name, parameter in self._parameters.items():
            place = self._place(parameter)
            if place is None:
                continue
            start, shape = place
            yield Fragment(weight_key(name), shape, start, self._buffer(parameter))
            for key in self._moments[name] if self.optimizer_step else ():
                yield Fragment(moment_key(key, name), shape, start, self._buffer(parameter, key))

    def _whole_weights(self) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        for name, parameter in self._parameters.items():
            yield name, tuple(parameter.shape), parameter.detach()

    def _whole_moments(self) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        for name, parameter in self._parameters.items() if self.optimizer_step else ():
            for key in self._moments[name]:
                yield moment_key(key, name), tuple(parameter.shape), self._engine.optimizer.state[parameter][key]

    def _place(self, parameter: Any) -> tuple[int, tuple[int, ...]] | None:
        """With ZeRO 1-3: where this rank's piece of a parameter starts, and the whole shape; None: it has none."""
        if self._zero_stage == 3:
            start = parameter.ds_tensor.numel() * self._engine.optimizer._get_param_partition_rank(parameter)
            return (start, tuple(parameter.ds_shape)) if start < parameter.ds_numel else None
        mapping = parameter._hp_mapping
        return None if mapping is None else (mapping.lp_fragment_address.start, tuple(parameter.shape))

    def _buffer(self, parameter: Any, moment: str | None = None) -> Tensor:
        """With ZeRO 1-3: this rank's piece of the fp32 weights or of a moment, a flat view without padding."""
        if self._zero_stage < 3:
            fragment: Tensor = parameter._hp_mapping.get_hp_fragment(moment)
            return fragment
        start, shape = self._place(parameter) or (0, ())
        partition, _ = self._engine.optimizer._get_fp32_opt_state_partition(parameter, True, moment)
        own: Tensor = partition[: math.prod(shape) - start]  # the last rank's is padded
        return own

    def _create_moments(self) -> None:
        wrapper = self._engine.optimizer
        for flat in self._flat_buffers():
            wrapper.optimizer.state[flat] = {
                "step": torch.tensor(0.0),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        if self._zero_stage < 3:
            wrapper._lazy_init_hp_params_optimizer_state()

    def _forget_moments(self) -> None:
        """As before the first update."""
        if not self._zero_stage:
            self._engine.optimizer.state.clear()
            return
        for flat in self._flat_buffers():
            for value in self._engine.optimizer.optimizer.state[flat].values():
                value.zero_()

    def _flat_buffers(self) -> list[Tensor]:
        """The fp32 buffers that the wrapped AdamW really updates."""
        wrapper = self._engine.optimizer
        if self._zero_stage == 3:
            return list(wrapper.fp32_partitioned_groups_flat)
        return [flat for group in wrapper.optimizer.param_groups for flat in group["params"]]

    def _require(self, source: TensorSource, keys: Mapping[str, str]) -> None:
        """keys: tensor's name in the source -> parameter's name."""
        missing = [key for key in keys if key not in source]
        if missing:
            raise ConfigurationError(
                f"the checkpoint to continue from lacks {len(missing)} tensors, '{missing[0]}' for one.",
                "continue with the model and the optimizer it was made with, or set carry_optimizer to false.",
            )
        for key, name in keys.items():
            shape = self._shape(self._parameters[name])
            if source.shape(key) != shape:
                raise ConfigurationError(
                    f"tensor '{key}' of the checkpoint to continue from is {source.shape(key)}, the model's {shape}.",
                    "continue with the model it was made with.",
                )

    def _shape(self, parameter: Any) -> tuple[int, ...]:
        return tuple(parameter.ds_shape if self._zero_stage == 3 else parameter.shape)
