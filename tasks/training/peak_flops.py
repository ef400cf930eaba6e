"""What a device can do at best: the denominator of model FLOPs utilisation.

Published dense peaks (without structured sparsity, at boost clock) for accelerators that are in the table; a large
matrix product, timed, for everything else. Both are for one device, that is one rank.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]

#: Of the measured product: large enough for a device to be at its best.
_MATRIX_SIZE_CPU, _MATRIX_SIZE_CUDA = 1024, 8192
_MEASURING_SECONDS = 0.3
_FEWEST_PRODUCTS = 3

_AMPERE = "https://www.nvidia.com/content/dam/en-zz/Solutions/geforce/ampere/pdf/NVIDIA-ampere-GA102-GPU-Architecture-Whitepaper-V1.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_A10 = "https://www.nvidia.com/en-us/data-center/products/a10-gpu/"
_A100 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"


@dataclass(frozen=True)
class Accelerator:
    """Published dense peaks in TFLOP/s; None where the device has no such unit. `name` is matched in torch's name."""

    name: str
    fp32: float
    tf32: float | None
    bf16: float | None
    source: str


#: The first whose pattern is found in `torch.cuda.get_device_name` counts, so variants come before the plain name.
#: Data sheets that state figures "with sparsity" are halved here.
ACCELERATORS = (
    Accelerator(r"B200\b", 75, 1100, 2250, "https://www.nvidia.com/en-us/data-center/hgx/"),
    Accelerator(r"H200 NVL", 60, 417.5, 835.5, _H200),
    Accelerator(r"G?H200\b", 67, 494.5, 989.5, _H200),
    Accelerator(r"H100 PCIe", 51, 378, 756.5, "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcs22/data-center/h100/PB-11133-001_v01.pdf"),
    Accelerator(r"H100 NVL", 60, 417.5, 835.5, _H100),
    Accelerator(r"H100\b", 67, 494.5, 989.5, _H100),
    Accelerator(r"A100\b", 19.5, 156, 312, _A100),
    Accelerator(r"A10G\b", 35, 35, 70, "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf"),
    Accelerator(r"A10\b", 31.2, 62.5, 125, _A10),
    Accelerator(r"A40\b", 37.4, 74.8, 149.7, "https://images.nvidia.com/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf"),
    Accelerator(r"RTX A6000\b", 38.7, 77.4, 154.8, _AMPERE),
    Accelerator(r"L40S\b", 91.6, 183, 362, "https://www.nvidia.com/en-us/data-center/l40s/"),
    Accelerator(r"L4\b", 30.3, 60, 121, "https://www.nvidia.com/en-us/data-center/l4/"),
    Accelerator(r"RTX 4090\b(?! D| Laptop)", 82.6, 82.6, 165.2, _ADA),
    Accelerator(r"RTX 3090\b(?! Ti)", 35.6, 35.6, 71, _AMPERE),
    Accelerator(r"V100.*PCIE", 14, None, None, "https://www.nvidia.com/en-us/data-center/v100/"),
    Accelerator(r"V100\b", 15.7, None, None, "https://www.nvidia.com/en-us/data-center/v100/"),
    Accelerator(r"Tesla T4\b|\bT4$", 8.1, None, None, "https://www.nvidia.com/en-us/data-center/tesla-t4/"),
    Accelerator(r"MI300X\b", 163.4, 653.7, 1307.4, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"),
)  # fmt: skip


@dataclass(frozen=True)
class PeakFlops:
    """FLOPs a second of one device, and where the figure comes from, for people."""

    per_second: float
    origin: str


def published(device_name: str, precision: Precision) -> PeakFlops | None:
    """The table's peak; None for a device, a part of one (MIG) or a precision that it does not know."""
    if "MIG" in device_name:
        return None
    for accelerator in ACCELERATORS:
        if re.search(rf"(?<![A-Z0-9]){accelerator.name}", device_name):
            value: float | None = getattr(accelerator, precision)
            origin = f"published dense {precision} peak of {device_name}, {accelerator.source}"
            return None if value is None else PeakFlops(value * 1e12, origin)
    return None


@cache
def measured(device: torch.device, precision: Precision) -> PeakFlops:
    """Of the fastest of several large products in about a third of a second, with the threads torch has now.

    Measured once a process. On a CPU the time is the process's own, so that what else runs on the machine hardly
    lowers the peak (shared caches still do), and utilisation shows what training lost to it.
    """
    size = _MATRIX_SIZE_CUDA if device.type == "cuda" else _MATRIX_SIZE_CPU
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Not of torch's own generator: the trainer's seed must not be disturbed.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.rand(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    result = left @ right  # the first one loads code and memory
    fastest, products, until = float("inf"), 0, time.perf_counter() + _MEASURING_SECONDS
    while products < _FEWEST_PRODUCTS or time.perf_counter() < until:
        started = _now(device)
        torch.mm(left, right, out=result)
        fastest = min(fastest, _now(device) - started)
        products += 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"
    return PeakFlops(2 * size**3 / fastest, f"measured: a {precision} product of {size} x {size} matrices, {name}")


def _now(device: torch.device) -> float:
    """Seconds: on a GPU of the clock, on a CPU of computing, a thread's share."""
    if device.type != "cuda":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_flops(device: torch.device, precision: Literal["fp32", "bf16"], stated_teraflops: float | None) -> PeakFlops:
    """What one rank's device reaches at best: as stated in the configuration, as published, or as measured."""
    if stated_teraflops is not None:
        return PeakFlops(stated_teraflops * 1e12, "stated: training.peak_teraflops")
    if device.type != "cuda":
        return measured(device, precision)
    used: Precision = "tf32" if precision == "fp32" and torch.backends.cuda.matmul.allow_tf32 else precision
    return published(torch.cuda.get_device_name(device), used) or measured(device, used)
