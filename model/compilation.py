"""Optional compilation of a model's blocks with `torch.compile`."""

from __future__ import annotations

from model.language_model import HybridLM


def compile_blocks(model: HybridLM, backend: str = "inductor") -> None:
    """Compile each block of `model` in place; parameter names, results and gradients stay as they are.

    Worth it for narrow models on a CPU in rows of one fixed length, where time goes into launching small
    operations (see docs/benchmarks.md); every new length is compiled anew, and the first step takes a minute or
    more. The `inductor` backend needs a C++ compiler on a CPU, Triton on a GPU.
    """
    for block in model.layers:
        block.compile(backend=backend, dynamic=False)
