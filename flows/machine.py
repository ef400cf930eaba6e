"""What the machine is, for the report."""

from __future__ import annotations

import os
import platform

import psutil

from tasks.reporting import Machine


def describe_machine() -> Machine:
    """Cores this process may use, memory, Python and platform; the GPU when torch sees one."""
    import torch

    accelerator = ""
    if torch.cuda.is_available():
        accelerator = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        python=platform.python_version(),
        accelerator=accelerator,
        platform=platform.platform(),
    )
