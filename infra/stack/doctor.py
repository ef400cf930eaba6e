"""Looks at the machine and the installation: what `sam2 doctor` prints. Contacts nothing outside unless asked."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from infra.stack.ports import port_holder, port_is_free
from infra.stack.settings import DEFAULT_MLFLOW_PORT, DEFAULT_PREFECT_PORT, StackSettings
from infra.stack.state import StackState, read_state
from infra.stack.web import is_healthy

LEAST_MEMORY_BYTES = 4 * 1024**3
LEAST_DISK_BYTES = 10 * 1024**3
PACKAGES = ("prefect", "fastapi", "mlflow", "torch", "deepspeed", "tokenizers", "pydantic", "sam2-pipeline")
PACKAGE_INDEX = "https://pypi.org/simple/pip/"


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `fix` says what to do when it is not all right."""

    subject: str
    is_well: bool
    found: str
    fix: str = ""


def examine(settings: StackSettings, online: bool = False) -> list[Finding]:
    """All findings. Only with `online` is the package index asked whether it can be reached."""
    state = read_state(settings)
    running = state if state is not None and state.is_running() else None
    findings = [
        _python(),
        _memory(),
        _disk(settings.home),
        _port(settings, "Prefect port", settings.prefect_port or DEFAULT_PREFECT_PORT, _own_port(running, "prefect")),
        _port(settings, "MLflow port", settings.mlflow_port or DEFAULT_MLFLOW_PORT, _own_port(running, "mlflow")),
        _stack(running),
        *[_package(name) for name in PACKAGES],
    ]
    return [*findings, _index()] if online else findings


def _python() -> Finding:
    is_well = sys.version_info[:2] == (3, 11)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores} cores"
    return Finding("Python", is_well, found, "the pinned dependencies are tested with Python 3.11")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    is_well = memory.available >= LEAST_MEMORY_BYTES
    found = f"{memory.available / 1024**3:.1f} GiB free of {memory.total / 1024**3:.1f}"
    return Finding("memory", is_well, found, "the smoke profile needs about 4 GiB; close something")


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    is_writable = os.access(existing, os.W_OK)
    found = f"{free / 1024**3:.1f} GiB free at {home}" + ("" if is_writable else ", not writable")
    return Finding("disk", is_writable and free >= LEAST_DISK_BYTES, found, "free some, or set SAM2_HOME")


def _own_port(running: StackState | None, name: str) -> int | None:
    if running is None:
        return None
    return running.prefect_port if name == "prefect" else running.mlflow_port


def _port(settings: StackSettings, subject: str, default: int, own: int | None) -> Finding:
    if own is not None:
        return Finding(subject, True, f"{own}, held by the running stack")
    if port_is_free(settings.host, default):
        return Finding(subject, True, f"{default} is free")
    holder = port_holder(default) or "another process"
    return Finding(subject, True, f"{default} is held by {holder}: the stack takes the next free one")


def _stack(running: StackState | None) -> Finding:
    if running is None:
        return Finding("servers", True, "not running (`sam2 up` starts them)")
    ill = [name for name, service in running.services.items() if not service.healthy]
    found = f"not healthy: {', '.join(ill)}" if ill else "running and healthy"
    return Finding("servers", not ill, found, "read `sam2 logs prefect`, `sam2 logs mlflow` or `sam2 logs worker`")


def _package(name: str) -> Finding:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name, False, "not installed", "run `make install`")
    if name == "fastapi" and tuple(int(part) for part in installed.split(".")[:2]) >= (0, 151):
        return Finding(name, False, installed, "Prefect 3.8 does not start with it: run `make install`")
    return Finding(name, True, installed)


def _index() -> Finding:
    index = os.environ.get("PIP_INDEX_URL") or PACKAGE_INDEX
    found = is_healthy(index, timeout_seconds=10)
    return Finding("package index", found, "reachable" if found else "not reachable", "check the network")
