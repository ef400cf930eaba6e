"""An export in onnxruntime: sessions, and the states of a batch of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.errors import CacheError, CheckpointError
from model.exports.onnx.directory import GraphDescription, OnnxDescription, describe
from model.exports.onnx.parts import BATCH, PAST, StateSpec

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

#: The rest of a prompt is read a token at a time up to this many, else as a padded chunk, which costs as much as 4-5.
STEPPED_TOKENS = 4


@dataclass
class OnnxState:
    """What a batch of sequences of equal length has left behind: one value a state of the description."""

    values: list[Any]  # onnxruntime.OrtValue
    batch: int
    length: int = 0


class OnnxRuntime:
    """The two graphs of an export on the CPU. Nothing is sent anywhere; the graphs are run, not trained.

    `threads` are those of one call; None takes one a core. Raises CheckpointError when the export is damaged or
    onnxruntime refuses it.
    """

    def __init__(self, directory: str | Path, threads: int | None = None) -> None:
        self.directory = Path(directory)
        self.description: OnnxDescription = describe(self.directory)
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._step, self._chunk = (
            self._session(graph, options) for graph in (self.description.step, self.description.chunk)
        )

    def new_state(self, batch: int) -> OnnxState:
        """The state before any token."""
        sizes = {BATCH: batch, PAST: 0}
        shapes = [[sizes[size] if isinstance(size, str) else size for size in one.shape] for one in self._states]
        return OnnxState([_value(np.zeros(shape, np.float32)) for shape in shapes], batch)

    def read(self, tokens: IntArray, state: OnnxState, logits_for: Literal["all", "last"] = "last") -> FloatArray:
        """Advance `state` by `tokens` `[batch, time]`; logits `[batch, time or 1, vocabulary]`."""
        batch, time = tokens.shape
        if batch != state.batch:
            raise CacheError(f"the state holds {state.batch} sequences, the call has {batch}: use a new state")
        size = self.description.chunk_tokens
        spans = [slice(start, min(start + size, time)) for start in range(0, time, size)]
        found = [part for span in spans for part in self._read_span(tokens[:, span], state, logits_for)]
        return np.concatenate(found, axis=1) if logits_for == "all" else found[-1]

    def select(self, state: OnnxState, rows: Sequence[int]) -> OnnxState:
        """The state of some of its sequences."""
        chosen = [_value(value.numpy()[list(rows)]) for value in state.values]
        return OnnxState(chosen, len(rows), state.length)

    @property
    def _states(self) -> tuple[StateSpec, ...]:
        return self.description.states

    def _read_span(self, tokens: IntArray, state: OnnxState, logits_for: str) -> list[FloatArray]:
        """At most a chunk, by whichever graph is faster."""
        time = tokens.shape[1]
        if time > STEPPED_TOKENS:
            wanted = np.arange(time) if logits_for == "all" else np.array([time - 1])
            return [self._read_chunk(tokens, wanted, state)]
        return [self._read_token(tokens[:, index : index + 1], state) for index in range(time)]

    def _read_token(self, tokens: IntArray, state: OnnxState) -> FloatArray:
        return self._run(self._step, self.description.step, [tokens, np.array(state.length)], state, 1)

    def _read_chunk(self, tokens: IntArray, wanted: IntArray, state: OnnxState) -> FloatArray:
        time, size = tokens.shape[1], self.description.chunk_tokens
        # Padding repeats a token that is there, so that no other's range of values enters a quantized graph.
        padded = np.pad(tokens, ((0, 0), (0, size - time)), mode="edge")
        inputs = [padded, np.array(state.length), np.array(time), wanted]
        logits = self._run(self._chunk, self.description.chunk, inputs, state, time)
        if time < size:
            for index, spec in enumerate(self._states):
                if PAST in spec.shape:
                    kept = state.values[index].numpy()[:, :, : state.length]
                    state.values[index] = _value(np.ascontiguousarray(kept))
        return logits

    def _run(
        self, session: Any, graph: GraphDescription, inputs: list[IntArray], state: OnnxState, time: int
    ) -> FloatArray:
        values = [*map(_value, map(np.ascontiguousarray, inputs)), *state.values]
        outputs = session.run_with_ort_values(list(graph.outputs), dict(zip(graph.inputs, values, strict=True)))
        logits: FloatArray = outputs[0].numpy()
        state.values, state.length = list(outputs[1:]), state.length + time
        return logits

    def _session(self, graph: GraphDescription, options: Any) -> Any:
        path = self.directory / graph.file
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CheckpointError(f"onnxruntime cannot open {path} ({error}): export the model again") from error


def _value(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
