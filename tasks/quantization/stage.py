"""The quantization stage: every format made, opened in its users' runtime, measured against the original, and judged.

Files: `int8/`, `int4/` (config and safetensors), `gguf/model-<format>.gguf`, `onnx/`, `onnx-int8/`,
`quantization.json` (sizes, loss and verdicts: deterministic), `timings.json` (speed and memory on this machine),
`plots/formats.png`. Each format is a shard: an interrupted stage continues with those it has not finished. A format
that does not open, ends the process that measures it, means something else in llama.cpp than in our reader, or loses
more than its gates allow is `refused`, with the reason; its files stay for inspection.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.artifacts import Stage, StageContext, StageResult
from infra.artifacts.shards import SCRATCH_DIRECTORY
from infra.errors import PipelineError
from infra.storage.local import atomic_file
from model import ModelError
from model.interface import Runtime
from tasks.evaluation.held_out import choose_documents, windows_of
from tasks.evaluation.inputs import MODEL_DIRECTORY, EvaluationInputs, open_inputs
from tasks.evaluation.needle import make_questions
from tasks.quantization.config import QuantizationConfig, WeightFormat
from tasks.quantization.formats import FormatRuntime, check_formats, gguf_notice, path_of, runtime_of, write
from tasks.quantization.measuring import Figures, Job, MeasuringPlan, plain_question
from tasks.quantization.plots import plot_formats
from tasks.quantization.processes import run_plan
from tasks.quantization.verdicts import ACCEPTED, ORIGINAL, REFUSED, row_of

RESULTS_FILE = "quantization.json"
TIMINGS_FILE = "timings.json"
_WEIGHTS = f"{MODEL_DIRECTORY}/model.safetensors"
_PLAN_FILE = "measuring.json"
_ORIGINAL_RUNTIME = FormatRuntime(Runtime.TORCH, "torch, float32")


def quantize(context: StageContext[QuantizationConfig]) -> StageResult:
    """Make and measure the formats that are not finished yet, then judge all of them.

    Inputs: `checkpoint`, `tokens`, `evaluation`. Raises ConfigurationError, before any work, when the
    model cannot be stored in one of the formats.
    """
    work = _Quantization(context)
    check_formats(work.inputs.model, context.config.formats)
    for weight_format in context.config.formats:
        work.make(weight_format)
    work.measure()
    return _conclude(context, work.figures(), gguf_notice(work.inputs.model.config, context.config.formats))


class _Quantization:
    """The work on one model; what several formats need is made when the first one asks.

    A format's files are those of the shard `made/<format>`, its figures those of `measured/<format>`.
    """

    def __init__(self, context: StageContext[QuantizationConfig]) -> None:
        self._context = context
        self._config = context.config
        self._names = [ORIGINAL, *(weight_format.value for weight_format in context.config.formats)]
        self._steps_done = 0

    @cached_property
    def inputs(self) -> EvaluationInputs:
        """Model and text."""
        return open_inputs(self._context.inputs)

    def make(self, weight_format: WeightFormat) -> None:
        """Write the format unless that is done; a model it cannot hold after all is noted."""
        shard = f"made/{weight_format}"
        self._report(f"making {weight_format}")
        if self._context.shards.statistics(shard) is None:
            try:
                files = write(self.inputs, self._context.directory, weight_format, self._config.threads)
            except (ModelError, RuntimeError, MemoryError) as error:
                problem = f"it could not be made: {type(error).__name__}: {error}"
                self._context.shards.finish(shard, [], {"problem": problem, "size_bytes": 0})
            else:
                size = sum(path.stat().st_size for path in files)
                self._context.shards.finish(shard, files, {"size_bytes": size})
        self._steps_done += 1

    def measure(self) -> None:
        """Measure what is made and has no figures yet. Raises PipelineError when the original cannot be measured."""
        unmeasured = [name for name in self._names if not self._is_measured(name)]
        self._steps_done += len(self._names) - len(unmeasured)
        if unmeasured:
            path = self._context.directory / SCRATCH_DIRECTORY / _PLAN_FILE
            run_plan(self._plan(unmeasured), path, self._keep, lambda name: self._report(f"measuring {name}"))

    def figures(self) -> dict[str, Figures]:
        """Everything found out of the original and each format."""
        found: dict[str, Figures] = {}
        for name in self._names:
            made, measured = self._made(name), self._context.shards.statistics(f"measured/{name}") or {}
            found[name] = {"runtime": self._runtime(name).label} | measured | made
        return found

    def _keep(self, name: str, figures: Figures) -> None:
        if name == ORIGINAL and "problem" in figures:
            raise PipelineError(
                f"the original model could not be measured: {figures['problem']}.",
                "correct that; without it no format can be judged.",
            )
        self._context.shards.finish(f"measured/{name}", [], figures | {"runtime": self._runtime(name).label})
        self._steps_done += 1

    def _is_measured(self, name: str) -> bool:
        return "problem" in self._made(name) or self._context.shards.is_done(f"measured/{name}")

    def _made(self, name: str) -> Figures:
        if name == ORIGINAL:
            return {"size_bytes": self._context.inputs["checkpoint"].path(_WEIGHTS).stat().st_size}
        return self._context.shards.statistics(f"made/{name}") or {}

    def _runtime(self, name: str) -> FormatRuntime:
        return _ORIGINAL_RUNTIME if name == ORIGINAL else runtime_of(self.inputs.model.config, WeightFormat(name))

    def _report(self, what: str) -> None:
        self._context.report(self._steps_done / (2 * len(self._names)), f"quantization: {what}", None)

    def _plan(self, names: Sequence[str]) -> MeasuringPlan:
        original = self._context.inputs["checkpoint"].path(_WEIGHTS).parent
        places = {
            name: original if name == ORIGINAL else path_of(self._context.directory, WeightFormat(name))
            for name in names
        }
        return MeasuringPlan(
            original=original,
            tokenizer=self.inputs.tokenizer_file,
            rows=self._rows(),
            questions=self._questions(),
            needle=self._config.needle,
            speed=self._config.speed,
            context_tokens=self._context_tokens,
            jobs=[Job(name=name, path=place, runtime=self._runtime(name).runtime) for name, place in places.items()],
        )

    @property
    def _context_tokens(self) -> int:
        return min(self._config.context_tokens, self.inputs.model.config.maximum_context)

    def _rows(self) -> list[list[int]]:
        """Held-out documents after their separators, each cut to the context."""
        config, inputs = self._config, self.inputs
        corpus = choose_documents(inputs.validation, config.comparison_tokens, self._context_tokens, config.seed)
        documents = (corpus.document(index) for index in range(len(corpus.lengths)))
        windows = (windows_of(document, inputs.separator, self._context_tokens, 0)[0] for document in documents)
        return [window.row.tolist() for window in windows]

    def _questions(self) -> list[Figures]:
        config, inputs, context = self._config, self.inputs, self._context_tokens
        lengths = [length for length in config.needle.lengths or () if length <= context]
        text = inputs.validation.tokens[: 50 * context * config.needle.samples_per_cell]
        questions = make_questions(config.needle, lengths, text, inputs.separator, inputs.encode, config.seed)
        return [plain_question(question) for question in questions]


def _conclude(
    context: StageContext[QuantizationConfig], measured: dict[str, Figures], notice: str | None
) -> StageResult:
    """Verdicts, the table, metrics, files and the plot."""
    shutil.rmtree(context.directory / SCRATCH_DIRECTORY, ignore_errors=True)
    rows = [row_of(context.config, name, figures) for name, figures in measured.items()]
    timings = {name: figures.pop("speed", None) for name, figures in measured.items()}
    verdicts = {row["format"]: {"verdict": row["verdict"], "reason": row["reason"]} for row in rows}
    _write_json(context.directory / RESULTS_FILE, {"formats": measured, "verdicts": verdicts})
    _write_json(context.directory / TIMINGS_FILE, timings)
    plot_formats(context.directory / "plots" / "formats.png", rows)
    refused = {row["format"]: row["reason"] for row in rows if row["verdict"] == REFUSED}
    for name, reason in refused.items():
        context.log.warning("format %s is refused: %s", name, reason)
    evaluation = context.inputs["evaluation"].manifest
    statistics = {
        "accepted": [row["format"] for row in rows if row["verdict"] == ACCEPTED],
        "refused": refused,
        "evaluation_gates_passed": evaluation.statistics.get("gates_passed"),
        "runtimes": {row["format"]: row["runtime"] for row in rows},
        "gguf_runtime": notice,
    }
    return StageResult(_metrics(rows), {"formats": rows}, statistics)


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        f"quant/{row['format']}/{key}": float(value)
        for row in rows
        for key, value in row.items()
        if isinstance(value, (int, float))
    }


def _write_json(path: Path, content: Figures) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())


STAGE = Stage(name="quantization", kind="quantized", version=2, config_type=QuantizationConfig, run=quantize)
