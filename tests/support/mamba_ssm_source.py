"""mamba_ssm as a reference, from the unpacked source distribution that `MAMBA_SSM_SOURCE` names.

It cannot be installed without CUDA. Its reference functions and Triton kernels can be imported alone: without the
package's `__init__`, and with an empty module for the compiled scan.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

VARIABLE = "MAMBA_SSM_SOURCE"

needs_mamba_ssm_source = pytest.mark.skipif(
    not os.environ.get(VARIABLE) or importlib.util.find_spec("einops") is None,
    reason=f"needs {VARIABLE}, an unpacked source distribution of mamba_ssm, and einops",
)


def mamba_ssm_module(name: str) -> Any:
    """`mamba_ssm.NAME`."""
    if "mamba_ssm" not in sys.modules:
        package = types.ModuleType("mamba_ssm")
        package.__path__ = [str(Path(os.environ[VARIABLE], "mamba_ssm"))]
        sys.modules["mamba_ssm"] = package
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
    return importlib.import_module(f"mamba_ssm.{name}")


def interpreted_state_space_duality(**arguments: Tensor | None) -> tuple[Tensor, Tensor]:
    """`model.ops.cuda_kernels.state_space_duality` for a process in which Triton is interpreted, so without CUDA."""
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc]
    processors = types.SimpleNamespace(multi_processor_count=4)
    torch.cuda.get_device_properties = lambda *_: processors  # type: ignore[assignment,return-value]
    mamba_ssm_module("ops.triton.ssd_combined")
    from model.ops import cuda_kernels

    cuda_kernels._MAMBA_CHUNK = 32
    return cuda_kernels.state_space_duality(**arguments)  # type: ignore[arg-type]
