"""What DeepSpeed 0.19.8 holds of weights, gradients and optimiser on each rank, as its sources lay it out.

Every term names the place in `deepspeed/runtime` that allocates it. The optimiser is torch's AdamW with float32
moments, gradients are accumulated in float32 (`data_types.grad_accum_dtype`), buckets are DeepSpeed's defaults.
Padding to multiples of the ranks, and the small parameters that ZeRO-3 keeps whole, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from model.sizing.placement import TrainingPlacement

#: `reduce_bucket_size`, `stage3_max_live_parameters` and `sub_group_size` (zero/config.py), in elements.
BUCKET_ELEMENTS = 500_000_000
LIVE_ELEMENTS = 1_000_000_000
SUB_GROUP_ELEMENTS = 1_000_000_000
_FLOAT32 = 4
_MOMENTS = 2


@dataclass(frozen=True)
class ModelStates:
    """Bytes on each GPU, and in the processor's memory for each GPU."""

    weights: int
    gradients: int
    master_weights: int
    moments: int
    communication: int  # beside the passes: buckets, weights gathered for use, a gradient on its way
    update: int  # only while the optimiser works, when activations are gone
    cpu: dict[str, int] = field(default_factory=dict)


def model_states(parameters: int, largest_parameter: int, placement: TrainingPlacement) -> ModelStates:
    """The states of a model of so many parameters, the largest matrix having `largest_parameter`."""
    share = -(-parameters // placement.ranks)
    if placement.zero_stage == 3:
        return _weights_sharded(parameters, share, largest_parameter, placement)
    if placement.zero_stage == 0:
        return _nothing_sharded(parameters, largest_parameter, placement)
    if placement.zero_stage == 1 and placement.precision == "bf16" and not placement.offload_optimizer:
        return _bf16_optimizer(parameters, share, largest_parameter, placement)
    return _weights_whole(parameters, share, largest_parameter, placement)


def _nothing_sharded(parameters: int, largest: int, placement: TrainingPlacement) -> ModelStates:
    """Plain float32 training; several ranks sum gradients in flat copies (engine.py `buffered_allreduce_fallback`)."""
    whole = _FLOAT32 * parameters
    summing = _FLOAT32 * max(min(parameters, BUCKET_ELEMENTS), largest) if placement.ranks > 1 else 0
    return ModelStates(whole, whole, 0, _MOMENTS * whole, 0, max(summing, whole))


def _bf16_optimizer(parameters: int, share: int, largest: int, placement: TrainingPlacement) -> ModelStates:
    """ZeRO-1 in bf16 is `BF16_Optimizer` (engine.py `_do_optimizer_sanity_check`), which shards no gradient.

    bf16_optimizer.py `_setup_for_real_optimizer`: flat bf16 weights, float32 gradients of all of them, the own part's
    float32 weights. The bf16 gradients of the passes stay beside them (`clear_lp_grads` zeroes them in place).
    """
    summing = 6 * max(min(parameters, BUCKET_ELEMENTS), largest) if placement.ranks > 1 else 0
    return ModelStates(
        weights=2 * parameters,
        gradients=(_FLOAT32 + 2) * parameters,
        master_weights=_FLOAT32 * share,
        moments=_MOMENTS * _FLOAT32 * share,
        communication=0,
        update=max(summing, _FLOAT32 * share),
    )


def _weights_whole(parameters: int, share: int, largest: int, placement: TrainingPlacement) -> ModelStates:
    """ZeRO-1 in float32 and ZeRO-2: zero/stage_1_and_2.py `DeepSpeedZeroOptimizer`."""
    element = placement.element_bytes
    # `setup_buckets`: made at the first gradient of each backward pass, always of full size; `allreduce_bucket` copies
    # what is in it, and a gradient larger than the bucket goes alone.
    staged = _FLOAT32 if placement.zero_stage == 1 else element
    filled = max(min(parameters, BUCKET_ELEMENTS), largest)
    communication = staged * (BUCKET_ELEMENTS + filled) + element * largest
    if placement.precision == "bf16":
        # `_build_compact_grad_partition_buffer`, on the GPU even where the optimiser is not; float32 slices are added.
        gradients = _FLOAT32 * share
        communication += _FLOAT32 * min(largest, share)
        if placement.zero_stage == 1:
            gradients += _FLOAT32 * parameters  # `grad_accum` of every parameter
    elif placement.zero_stage == 1:
        gradients = _FLOAT32 * (parameters + share)  # whole, and the own part copied (`copy_grads_in_partition`)
    else:
        # The own part, and once more while a later micro-batch's is added (`independent_gradient_partition_epilogue`).
        gradients = 0 if placement.offload_optimizer else 2 * _FLOAT32 * share
    if not placement.offload_optimizer:
        return ModelStates(
            weights=element * parameters,
            gradients=gradients,
            master_weights=_FLOAT32 * share,
            moments=_MOMENTS * _FLOAT32 * share,
            communication=communication,
            update=_FLOAT32 * share,  # AdamW's square roots (torch/optim/adamw.py, `_foreach_sqrt`)
        )
    cpu = {
        "master_weights": pinned_bytes(_FLOAT32 * share),
        "weights": pinned_bytes(element * share),  # `param_buffer_of_bit16_for_cpu_offload_groups`
        "gradients": pinned_bytes(_FLOAT32 * share) + pinned_bytes(element * largest),
        "moments": _MOMENTS * _FLOAT32 * share,
        "update": 2 * _FLOAT32 * share,  # square roots and their quotients (`_single_tensor_adamw`)
    }
    if placement.precision == "fp32":
        cpu["gradients"] += _FLOAT32 * share  # `accumulated_grads_in_cpu`
    communication += element * largest  # `temp_grad_buffer_for_gpu_offload`
    return ModelStates(element * parameters, gradients, 0, 0, communication, 0, cpu)


def _weights_sharded(parameters: int, share: int, largest: int, placement: TrainingPlacement) -> ModelStates:
    """ZeRO-3: zero/stage3.py `DeepSpeedZeroOptimizer_Stage3`, zero/partition_parameters.py."""
    element = placement.element_bytes
    filled = max(min(parameters, BUCKET_ELEMENTS), largest)
    # The bucket of `_setup_for_real_optimizer`, always of full size; `reduce_scatter_coalesced` interleaves a copy and
    # `__avg_scatter_grads` casts the own part.
    communication = element * (BUCKET_ELEMENTS + filled + largest) + _FLOAT32 * -(-filled // placement.ranks)
    if placement.ranks > 1 or placement.offload_parameters:
        # Weights in use or kept for reuse, and the copy in which a gathered one is put together. On one rank the
        # weights in use are the sharded ones (`NoGatherHandle`).
        communication += element * (min(parameters, LIVE_ELEMENTS) + largest)
    cpu: dict[str, int] = {}
    weights = element * share
    if placement.offload_parameters:
        cpu["weights"], weights = pinned_bytes(weights), 0  # `_create_param_groups_fp16_flat_cpu_memory`
    if not placement.offload_optimizer:
        return ModelStates(
            weights=weights,
            gradients=_FLOAT32 * share,  # `grad_partitions_flat_buffer`
            master_weights=_FLOAT32 * share,  # `fp32_partitioned_groups_flat`
            moments=_MOMENTS * _FLOAT32 * share,
            communication=communication,
            # AdamW's square roots, and the gradients flattened once more, a sub-group at a time.
            update=2 * _FLOAT32 * min(share, SUB_GROUP_ELEMENTS + largest),
            cpu=cpu,
        )
    cpu |= {
        "master_weights": _FLOAT32 * share,
        "gradients": pinned_bytes(_FLOAT32 * share) + _sub_groups_pinned(share),
        "moments": _MOMENTS * _FLOAT32 * share,
        "update": 2 * _FLOAT32 * min(share, SUB_GROUP_ELEMENTS + largest),
    }
    return ModelStates(weights, 0, 0, 0, communication, 0, cpu)


def pinned_bytes(size: int) -> int:
    """What torch takes for so many pinned bytes: the next power of two (`CachingHostAllocator`)."""
    return 1 << max(size - 1, 0).bit_length()


def _sub_groups_pinned(share: int) -> int:
    """The gradients that AdamW reads, float32, one pinned buffer a sub-group (`initialize_optimizer_states`)."""
    whole, rest = divmod(share, SUB_GROUP_ELEMENTS)
    return whole * pinned_bytes(_FLOAT32 * SUB_GROUP_ELEMENTS) + (pinned_bytes(_FLOAT32 * rest) if rest else 0)
