"""What a calibration was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field

_CPUINFO = Path("/proc/cpuinfo")


class Hardware(BaseModel):
    """The machine that trained. Equal hardware is expected to train equally fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cpu", "cuda"] = Field(description="what the passes run on")
    name: str = Field(description="the processor's or the GPU's name, as it tells")
    devices: int = Field(ge=1, description="GPUs that torch sees; 1 on a CPU")
    cores: int = Field(ge=1, description="cores this process may use")
    memory_bytes: int = Field(gt=0, description="of one GPU; on a CPU of the machine")

    def describe(self) -> str:
        """One line for people."""
        memory = f"{self.memory_bytes / 1e9:.0f} GB"
        if self.kind == "cuda":
            return f"{self.devices} x {self.name} ({memory} each), {self.cores} cores"
        return f"{self.name}, {self.cores} cores, {memory}"


def this_hardware() -> Hardware:
    """The machine at hand: its GPUs where torch sees some, else its processor."""
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        return Hardware(
            kind="cuda",
            name=torch.cuda.get_device_name(0),
            devices=torch.cuda.device_count(),
            cores=cores,
            memory_bytes=torch.cuda.get_device_properties(0).total_memory,
        )
    memory = psutil.virtual_memory().total
    return Hardware(kind="cpu", name=_processor_name(), devices=1, cores=cores, memory_bytes=memory)


def _processor_name(cpuinfo: Path = _CPUINFO) -> str:
    """As Linux tells it; elsewhere what Python knows of the architecture."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
