"""Bytes that DeepSpeed's engine really holds on each of two ranks, which the formulas of `model.sizing` must give.

`python deepspeed_states.py RESULT.json` is one rank (`RANK`, `WORLD_SIZE`, `MASTER_PORT` in the environment). All cases
share the two processes, which take seconds to start.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from model import HybridLM, preset
from tasks.training.engine import import_deepspeed

#: precision, ZeRO stage, what is in the processor's memory.
CASES = [
    ("fp32", 2, ()), ("fp32", 3, ()), ("bf16", 1, ()), ("bf16", 2, ()), ("bf16", 3, ()),
    ("bf16", 2, ("offload_optimizer",)), ("bf16", 3, ("offload_optimizer", "offload_param")),
]  # fmt: skip
#: Small, so that what is measured is the model's and not the buckets'.
BUCKET_ELEMENTS = 4096
ROWS, CONTEXT = 2, 32
#: Engines measured, so that none is freed while a later one is measured.
_KEPT: list[Any] = []


class Loss(nn.Module):
    """A small model's loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = HybridLM(
            preset("miniature").changed(tie_embeddings=False, layer_count=2, pattern=("hgrn2", "attention"))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.loss(tokens[:, :-1], tokens[:, 1:])


def held_bytes() -> int:
    """Of all tensors that Python knows."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor) and thing.device.type == "cpu" and type(thing).__name__ != "FakeTensor":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measured(deepspeed: Any, precision: str, stage: int, offloaded: tuple[str, ...]) -> dict[str, Any]:
    """Bytes held by this rank before an update, two micro-batches accumulated, the optimiser's state made."""
    before = held_bytes()
    module = Loss()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    zero = {"stage": stage, "reduce_bucket_size": BUCKET_ELEMENTS, "stage3_param_persistence_threshold": 0}
    config = {
        "train_micro_batch_size_per_gpu": ROWS,
        "gradient_accumulation_steps": 2,
        "zero_optimization": zero | {name: {"device": "cpu", "pin_memory": False} for name in offloaded},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1 << 40,
    }
    if stage == 3:
        # The loss reads the head's weight beyond the head's own forward pass.
        deepspeed.zero.register_external_parameter(module, module.model.lm_head.weight)
    optimizer = AdamW(module.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    tokens = torch.randint(0, 256, (ROWS, CONTEXT + 1))
    held = 0
    for micro_batch in range(4):
        engine.backward(engine(tokens))
        if micro_batch == 3:
            held = held_bytes() - before
        engine.step()
    name = type(engine.optimizer).__name__
    _KEPT.append(engine)
    return {
        "precision": precision, "zero_stage": stage, "offloaded": offloaded, "parameters": parameters, "bytes": held,
        "optimizer": name,
    }  # fmt: skip


def main(result: Path) -> None:
    """Measure every case; the first rank writes."""
    torch.set_num_threads(1)
    deepspeed = import_deepspeed()
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    defaults = DeepSpeedZeroConfig(stage=2)
    found = {
        "bucket": defaults.reduce_bucket_size,
        "live": defaults.max_live_parameters,
        "sub_group": defaults.sub_group_size,
        "cases": [measured(deepspeed, *case) for case in CASES],
    }
    if torch.distributed.get_rank() == 0:
        result.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
