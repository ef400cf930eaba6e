"""An export with int8 projections: onnxruntime's dynamic quantization of both graphs, again over one weights file.

Weights have a scale for each output, inputs are rounded to 8 bits with one range over the whole call. Projections
that feed a decay stay in float32, as in `model.quantization`.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.errors import ConfigurationError
from model.exports.onnx.directory import TOKENIZER_FILE, GraphDescription, OnnxDescription, describe
from model.exports.onnx.runtime import OnnxRuntime
from model.exports.onnx.weights import share_weights
from model.exports.onnx.writer import checksums, fresh_directory, write_description

#: Projections that feed a decay: an error there grows with the length of the sequence.
_KEPT_EXACT = ("f_proj.weight", "a_proj.weight", "b_proj.weight", "dt_proj.weight")


def save_onnx_int8(source: str | Path, directory: str | Path) -> OnnxDescription:
    """Quantize the export in `source` to `directory`, which appears complete, and loads, or not at all.

    Raises CheckpointError when `source` is damaged or `directory` holds something, ConfigurationError when `source`
    is quantized already.
    """
    source = Path(source)
    description = describe(source)
    if description.weights_type != "float32":
        raise ConfigurationError(f"'{source}' is quantized already: give the float32 export")
    with fresh_directory(Path(directory)) as partial:
        graphs = (description.step, description.chunk)
        share_weights({graph.file: _quantized(source, graph) for graph in graphs}, partial)
        if (source / TOKENIZER_FILE).is_file():
            shutil.copyfile(source / TOKENIZER_FILE, partial / TOKENIZER_FILE)
        quantized = description.model_copy(update={"weights_type": "int8", "sha256": checksums(partial)})
        write_description(quantized, partial)
        OnnxRuntime(partial, threads=1)
    return quantized


def _quantized(source: Path, graph: GraphDescription) -> Any:
    """A graph as an onnx_ir model, its MatMuls by weights quantized."""
    import onnx
    import onnx_ir
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = source / graph.file
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    exact = [node.name for node in nodes if node.op_type == "MatMul" and node.input[1].endswith(_KEPT_EXACT)]
    # It recommends a preparation that our exports do not need.
    root, level = logging.getLogger(), logging.getLogger().level
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / graph.file
        root.setLevel(logging.ERROR)
        try:
            quantize_dynamic(
                path,
                target,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=exact,
                per_channel=True,
                # Without it, sums of products overflow 16 bits on processors that have no VNNI.
                reduce_range=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            root.setLevel(level)
        model = onnx_ir.load(target)
        for value in model.graph.initializers.values():
            # What lies in a file is read before the scratch directory goes.
            assert value.const_value is not None
            value.const_value = onnx_ir.Tensor(value.const_value.numpy(), name=value.name)
    return model
