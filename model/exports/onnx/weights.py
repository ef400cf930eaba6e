"""One weights file under several graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from model.exports.onnx.directory import WEIGHTS_FILE

#: Smaller tensors stay in the graph.
SMALLEST_SHARED_BYTES = 512
#: Where tensors begin in the file: the granularity at which it can be mapped into memory.
ALIGNMENT_BYTES = 4096


def share_weights(graphs: Mapping[str, Any], directory: Path) -> None:
    """Write each onnx_ir model under its file name, and equal tensors of all of them once, in `WEIGHTS_FILE`."""
    import onnx_ir

    places: dict[tuple[object, ...], int] = {}
    with (directory / WEIGHTS_FILE).open("wb") as file:
        for model in graphs.values():
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor.nbytes < SMALLEST_SHARED_BYTES:
                    continue
                content = tensor.tobytes()
                key = (tensor.dtype, tuple(tensor.shape), hashlib.sha256(content).digest())
                if key not in places:
                    places[key] = _append(file, content)
                value.const_value = onnx_ir.ExternalTensor(
                    WEIGHTS_FILE, places[key], len(content), tensor.dtype,
                    shape=tensor.shape, name=name, base_dir=directory,
                )  # fmt: skip
    for file_name, model in graphs.items():
        onnx_ir.save(model, directory / file_name)


def _append(file: BinaryIO, content: bytes) -> int:
    """Write `content` at the next aligned place, which is returned."""
    file.write(bytes(-file.tell() % ALIGNMENT_BYTES))
    offset = file.tell()
    file.write(content)
    return offset
