"""Write a model as two ONNX graphs over one weights file."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.errors import CheckpointError, ConfigurationError
from model.exports.onnx.directory import (
    METADATA_FILE,
    TOKENIZER_FILE,
    GraphDescription,
    OnnxDescription,
    checksum,
)
from model.exports.onnx.graphs import CHUNK_TOKENS, ChunkGraph, GraphModel, StepGraph
from model.exports.onnx.parts import BATCH, PAST, StateSpec
from model.exports.onnx.weights import share_weights
from model.language_model import HybridLM

OPSET = 20
STEP_FILE, CHUNK_FILE = "step.onnx", "chunk.onnx"
#: Where the wanted positions vary, as `batch` and `past` do.
WANTED = "wanted"
#: Example sizes: none of them 0 or 1, which the exporter would take for constants.
_EXAMPLE = {BATCH: 2, PAST: 5, WANTED: 3}

Shape = tuple[int | str, ...]


def save_onnx(model: HybridLM, directory: str | Path, tokenizer_json: str | Path | None = None) -> OnnxDescription:
    """Write `model` to `directory`, which must not exist or be empty and appears complete or not at all.

    Two graphs share one float32 weights file: `step.onnx` takes one token a row, `chunk.onnx` `CHUNK_TOKENS` of which
    the first `count` are real. Both take and give every state explicitly (see `OnnxDescription`). Batch size and
    tokens seen so far vary; every row of a batch has seen the same number. `tokenizer_json` is copied beside them.

    Raises ConfigurationError for a model with adapters or quantized layers, and CheckpointError when `directory`
    holds something.
    """
    graphs = GraphModel(model.eval())
    with fresh_directory(Path(directory)) as partial:
        step, chunk = _export_step(graphs), _export_chunk(graphs)
        share_weights({STEP_FILE: step, CHUNK_FILE: chunk}, partial)
        if tokenizer_json is not None:
            shutil.copyfile(tokenizer_json, partial / TOKENIZER_FILE)
        description = OnnxDescription(
            weights_type="float32",
            opset=OPSET,
            chunk_tokens=CHUNK_TOKENS,
            states=tuple(graphs.states),
            step=_description(STEP_FILE, step),
            chunk=_description(CHUNK_FILE, chunk),
            config=model.config,
            sha256=checksums(partial),
        )
        write_description(description, partial)
    return description


@contextmanager
def fresh_directory(directory: Path) -> Iterator[Path]:
    """A directory to fill that takes the name `directory` when the block ends without an error."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"'{directory}' exists already: remove it or name another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file in `directory`."""
    return {path.name: checksum(path) for path in sorted(directory.iterdir())}


def write_description(description: OnnxDescription, directory: Path) -> None:
    """Write `onnx.json`."""
    (directory / METADATA_FILE).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")


def check_shapes(graph: Any, expected: Sequence[tuple[str, Shape]]) -> None:
    """Refuse a graph (onnx_ir) whose inputs are not `expected`: varying sizes must vary, the others be fixed.

    The exporter fixes a varying size without a word when anything in the model depends on it.
    """
    found = [(value.name, tuple(value.shape)) for value in graph.inputs]
    if [name for name, _ in found] != [name for name, _ in expected]:
        raise ConfigurationError(f"the exporter made the inputs {[name for name, _ in found]}, not those asked for")
    symbols: dict[str, str] = {}
    for (name, sizes), (_, wanted) in zip(found, expected, strict=True):
        fits = len(sizes) == len(wanted) and all(
            size == want if isinstance(want, int) else _is_symbol(size, want, symbols)
            for size, want in zip(sizes, wanted, strict=True)
        )
        if not fits:
            raise ConfigurationError(
                f"the exporter gave input {name} the shape {[str(size) for size in sizes]} instead of {list(wanted)}: "
                "something in the model depends on that size"
            )


def _is_symbol(size: Any, name: str, symbols: dict[str, str]) -> bool:
    """Whether `size` varies, and by the same symbol wherever `name` is meant."""
    return not isinstance(size, int) and symbols.setdefault(name, str(size)) == str(size)


def _export_step(graphs: GraphModel) -> Any:
    inputs: list[tuple[str, Shape]] = [("tokens", (BATCH, 1)), ("position", ())]
    return _export(StepGraph(graphs), inputs, graphs.states)


def _export_chunk(graphs: GraphModel) -> Any:
    inputs: list[tuple[str, Shape]] = [
        ("tokens", (BATCH, CHUNK_TOKENS)),
        ("position", ()),
        ("count", ()),
        ("wanted", (WANTED,)),
    ]
    return _export(ChunkGraph(graphs), inputs, graphs.states)


def _export(graph: nn.Module, inputs: list[tuple[str, Shape]], states: Sequence[StateSpec]) -> Any:
    """The graph as an onnx_ir model, its inputs checked."""
    state_inputs = [(state.name, state.shape) for state in states]
    example = [torch.ones(_sizes(shape), dtype=torch.long) for _, shape in inputs]
    example_states = tuple(torch.zeros(_sizes(shape)) for _, shape in state_inputs)
    varying = {name: torch.export.Dim(name) for name in _EXAMPLE}
    dynamic, dynamic_states = (
        tuple({axis: varying[size] for axis, size in enumerate(shape) if isinstance(size, str)} for _, shape in part)
        for part in (inputs, state_inputs)
    )
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            (*example, example_states),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            optimize=False,
            input_names=[name for name, _ in [*inputs, *state_inputs]],
            output_names=["logits", *(f"next.{name}" for name, _ in state_inputs)],
            dynamic_shapes=(*dynamic, dynamic_states),
        )
    assert program is not None
    check_shapes(program.model.graph, [*inputs, *state_inputs])
    return _cleaned(program.model)


def _cleaned(exported: Any) -> Any:
    """Constants folded, and none of the exporter's notes, which hold source paths of this machine.

    The exporter's own optimisation also searches for patterns, which the runtime does again when it loads a graph.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    optimizer.fold_constants(exported)
    optimizer.remove_unused_nodes(exported)
    ClearMetadataAndDocStringPass()(exported)
    return exported


def _sizes(shape: Shape) -> list[int]:
    return [_EXAMPLE[size] if isinstance(size, str) else size for size in shape]


def _description(file: str, exported: Any) -> GraphDescription:
    inputs, outputs = (
        [str(value.name) for value in values] for values in (exported.graph.inputs, exported.graph.outputs)
    )
    return GraphDescription(file=file, inputs=tuple(inputs), outputs=tuple(outputs))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on its own deprecations and on torchvision's absence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
