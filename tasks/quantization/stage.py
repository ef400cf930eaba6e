"""The quantization stage: every format made, read back from disk, measured against the original, and judged.

Files: `int8/` (config and safetensors), `gguf/model-<format>.gguf`, `quantization.json` (sizes, loss
and verdicts: deterministic), `timings.json` (speed and memory on this machine), `plots/formats.png`.
Each format is a shard: an interrupted stage continues with those it has not finished. A format whose
perplexity rises beyond its gate is `refused`, with the reason; its file stays for inspection.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from infra.artifacts import Stage, StageContext, StageResult
from infra.storage.local import atomic_file
from model import HybridLM
from tasks.evaluation.held_out import choose_documents, windows_of
from tasks.evaluation.inputs import EvaluationInputs, open_inputs
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.needle import ask, make_questions, pool
from tasks.evaluation.scoring import HybridScorer
from tasks.evaluation.speed import measure_speed
from tasks.quantization.comparison import Comparison, compare
from tasks.quantization.config import QuantizationConfig, WeightFormat
from tasks.quantization.formats import RUNTIMES, check_formats, read, write
from tasks.quantization.plots import plot_formats

RESULTS_FILE = "quantization.json"
TIMINGS_FILE = "timings.json"
ORIGINAL = "original"
Figures = dict[str, Any]


def quantize(context: StageContext[QuantizationConfig]) -> StageResult:
    """Make and measure the formats that are not finished yet, then judge all of them.

    Inputs: `checkpoint`, `tokens`, `evaluation`. Raises ConfigurationError, before any work, when the
    model cannot be stored in one of the formats.
    """
    work = _Quantization(context)
    formats = context.config.formats
    check_formats(work.inputs.model, formats)
    measured = {ORIGINAL: _once(context, 0, ORIGINAL, work.measure_original)}
    for number, weight_format in enumerate(formats, start=1):
        measured[weight_format.value] = _once(context, number, weight_format.value, work.make(weight_format))
    return _conclude(context, measured)


def _once(
    context: StageContext[QuantizationConfig],
    number: int,
    name: str,
    task: Callable[[], tuple[Figures, list[Path]]],
) -> Figures:
    """The format's figures: from its marker when an earlier attempt finished it and its files are intact."""
    context.report(number / (len(context.config.formats) + 1), f"quantization: {name}", None)
    figures = context.shards.statistics(name)
    if figures is None:
        figures, files = task()
        context.shards.finish(name, files, figures)
    return figures


class _Quantization:
    """The work on one model; what several formats need is made when the first one asks."""

    def __init__(self, context: StageContext[QuantizationConfig]) -> None:
        self._context = context
        self._config = context.config

    @cached_property
    def inputs(self) -> EvaluationInputs:
        """Model and text."""
        return open_inputs(self._context.inputs)

    def measure_original(self) -> tuple[Figures, list[Path]]:
        """The figures every format is compared with."""
        weights = self._context.inputs["checkpoint"].path("model/model.safetensors")
        memory = PeakMemory()
        model = open_inputs(self._context.inputs).model  # a copy of its own, so that its memory counts
        return self._measure(model, memory, weights.stat().st_size, "torch, float32"), []

    def make(self, weight_format: WeightFormat) -> Callable[[], tuple[Figures, list[Path]]]:
        """Work that writes the format, reads it back and measures it."""

        def work() -> tuple[Figures, list[Path]]:
            directory = self._context.directory
            files = write(self.inputs, directory, weight_format, self._config.threads)
            memory = PeakMemory()
            model = read(directory, weight_format)
            size = sum(path.stat().st_size for path in files)
            return self._measure(model, memory, size, RUNTIMES[weight_format]), files

        return work

    def _measure(self, model: HybridLM, memory: PeakMemory, size_bytes: int, runtime: str) -> Figures:
        speed = measure_speed(model, self._config.speed, self._config.context_tokens)
        peak = memory.added_bytes()
        comparison = compare(self.inputs.model, model, self._rows, self._config.batch_tokens)
        return {
            "size_bytes": size_bytes,
            "runtime": runtime,
            "comparison": asdict(comparison),
            "needle": self._needle(model),
            "speed": asdict(speed) | {"peak_added_bytes": peak},
        }

    @cached_property
    def _rows(self) -> list[Any]:
        """Held-out documents after their separators, each cut to the context."""
        config, inputs = self._config, self.inputs
        corpus = choose_documents(inputs.validation, config.comparison_tokens, config.context_tokens, config.seed)
        documents = (corpus.document(index) for index in range(len(corpus.lengths)))
        return [windows_of(document, inputs.separator, config.context_tokens, 0)[0].row for document in documents]

    def _needle(self, model: HybridLM) -> Figures:
        config, inputs = self._config, self.inputs
        lengths = [length for length in config.needle.lengths or () if length <= config.context_tokens]
        text = inputs.validation.tokens[: 50 * config.context_tokens * config.needle.samples_per_cell]
        questions = make_questions(config.needle, lengths, text, inputs.separator, inputs.encode, config.seed)
        scorer = HybridScorer(model, config.batch_tokens)
        cells = []
        for _, group in groupby(questions, key=lambda question: question.length):
            cells += ask(scorer, config.needle, list(group))
        if not cells:
            return {}
        pooled = pool(cells)
        return {
            "recall": pooled.correct / pooled.samples,
            "gain_nats": pooled.gain_nats,
            "samples": pooled.samples,
            "chance": 1 / config.needle.candidates,
        }


def verdict(comparison: Comparison, gate_percent: float) -> tuple[str, str]:
    """`accepted` or `refused`, and the reason."""
    increase = comparison.increase_percent
    if not math.isfinite(increase):
        return "refused", "its loss is not finite"
    found = f"perplexity changes by {increase:+.2f}%"
    if increase > gate_percent:
        return "refused", f"{found}, more than the {gate_percent:g}% allowed"
    return "accepted", f"{found}, within the {gate_percent:g}% allowed"


def _conclude(context: StageContext[QuantizationConfig], measured: dict[str, Figures]) -> StageResult:
    """Verdicts, the table, metrics, files and the plot."""
    rows = [_row(context.config, name, figures) for name, figures in measured.items()]
    timings = {name: figures.pop("speed") for name, figures in measured.items()}
    verdicts = {row["format"]: {"verdict": row["verdict"], "reason": row["reason"]} for row in rows}
    _write_json(context.directory / RESULTS_FILE, {"formats": measured, "verdicts": verdicts})
    _write_json(context.directory / TIMINGS_FILE, timings)
    plot_formats(context.directory / "plots" / "formats.png", rows)
    accepted = [row["format"] for row in rows if row["verdict"] == "accepted"]
    refused = {row["format"]: row["reason"] for row in rows if row["verdict"] == "refused"}
    for name, reason in refused.items():
        context.log.warning("format %s is refused: %s", name, reason)
    evaluation = context.inputs["evaluation"].manifest
    statistics = {
        "accepted": accepted,
        "refused": refused,
        "evaluation_gates_passed": evaluation.statistics.get("gates_passed"),
        "gguf_runtime": "our reader, or llama.cpp with our patch: the stock one has no hgrn2 architecture",
    }
    return StageResult(_metrics(rows), {"formats": rows}, statistics)


def _row(config: QuantizationConfig, name: str, figures: Figures) -> dict[str, Any]:
    """One format in the table for people."""
    comparison, speed = Comparison(**figures["comparison"]), figures["speed"]
    if name == ORIGINAL:
        result, reason = "original", "what the others are compared with"
    else:
        result, reason = verdict(comparison, config.gate_percent(WeightFormat(name)))
    return {
        "format": name,
        "size_mb": figures["size_bytes"] / 1e6,
        "perplexity": comparison.perplexity,
        "perplexity_increase_percent": comparison.increase_percent,
        "kl": comparison.kl,
        "top1_agreement": comparison.agreement,
        "needle_recall": figures["needle"].get("recall"),
        "prefill_tokens_per_second": speed["prefill_tokens_per_second"],
        "tokens_per_second": speed["decode_tokens_per_second"],
        "peak_added_mb": speed["peak_added_bytes"] / 1e6,
        "runtime": figures["runtime"],
        "verdict": result,
        "reason": reason,
    }


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        f"quant/{row['format']}/{key}": float(value)
        for row in rows
        for key, value in row.items()
        if isinstance(value, (int, float))
    }


def _write_json(path: Path, content: Figures) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())


STAGE = Stage(name="quantization", kind="quantized", version=1, config_type=QuantizationConfig, run=quantize)
