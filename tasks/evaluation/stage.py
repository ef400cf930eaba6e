"""The evaluation stage: a checkpoint and held-out tokens in, one table of figures and the gates' verdicts out.

Files: `evaluation.json` (deterministic: the same for the same checkpoint and configuration),
`timings.json` (speed, memory and seconds on this machine), `plots/*.png`. Each task is a shard: an
interrupted evaluation continues with the tasks it has not finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from infra.artifacts import Stage, StageContext, StageResult
from infra.storage.local import atomic_file
from model.sizing import cache_size
from tasks.evaluation.baselines import measure_baselines
from tasks.evaluation.config import EvaluationConfig
from tasks.evaluation.gates import all_passed, judge
from tasks.evaluation.held_out import Corpus, choose_documents
from tasks.evaluation.inputs import EvaluationInputs, open_inputs
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.needle import Cell, ask, make_questions, pool
from tasks.evaluation.perplexity import measure_perplexity
from tasks.evaluation.plots import plot_bits_per_byte, plot_positions, plot_recall
from tasks.evaluation.samples import write_samples
from tasks.evaluation.scoring import InterfaceScorer
from tasks.evaluation.speed import measure_speed

RESULTS_FILE = "evaluation.json"
TIMINGS_FILE = "timings.json"
Figures = dict[str, Any]


def evaluate(context: StageContext[EvaluationConfig]) -> StageResult:
    """Run the tasks that are not finished yet, then judge and draw.

    Inputs: `checkpoint` (with `model/`) and `tokens`. Raises PipelineError for inputs that do not
    belong together.
    """
    work = _Evaluation(context)
    tasks: dict[str, Callable[[], Figures]] = {
        "speed": work.speed,
        "perplexity": work.perplexity,
        "needle": work.needle,
        "samples": work.samples,
        "baselines": work.baselines,
    }
    results, seconds = {}, {}
    for number, (name, task) in enumerate(tasks.items()):
        context.report(number / len(tasks), f"evaluating: {name}", None)
        results[name], seconds[name] = _once(context, name, task)
    return _conclude(context, results, seconds)


def _once(context: StageContext[EvaluationConfig], name: str, task: Callable[[], Figures]) -> tuple[Figures, float]:
    """The task's figures and seconds: from its marker when an earlier attempt finished it."""
    finished = context.shards.statistics(name)
    if finished is None:
        started = time.monotonic()
        figures = task()
        finished = {"figures": figures, "seconds": time.monotonic() - started}
        context.shards.finish(name, [], finished)
        context.log.info("%s: %.1f s", name, finished["seconds"])
    return finished["figures"], finished["seconds"]


class _Evaluation:
    """The tasks; what several of them need is opened when the first one asks."""

    def __init__(self, context: StageContext[EvaluationConfig]) -> None:
        self._context = context
        self._config = context.config

    @cached_property
    def _inputs(self) -> EvaluationInputs:
        return open_inputs(self._context.inputs)

    @cached_property
    def _scorer(self) -> InterfaceScorer:
        return InterfaceScorer(self._inputs.interface)

    @cached_property
    def _held_out(self) -> Corpus:
        config = self._config
        return choose_documents(self._inputs.validation, config.held_out_tokens, config.document_tokens, config.seed)

    def speed(self) -> Figures:
        """Speed and memory. First of all tasks, so that the peak is the model's own."""
        memory = PeakMemory()
        model = self._inputs.model
        speed = measure_speed(self._inputs.interface, self._config.speed, self._config.context_tokens)
        cache = cache_size(model.config, self._config.context_tokens)
        return {
            **asdict(speed),
            "peak_rss_bytes": memory.peak_bytes(),
            "peak_added_bytes": memory.added_bytes(),
            "kv_cache_bytes": cache.keys_and_values,
            "recurrent_state_bytes": cache.states,
        }

    def perplexity(self) -> Figures:
        """Loss, bits per byte and loss by position."""
        held_out, config = self._held_out, self._config
        text, _ = held_out.to_bytes(self._inputs.token_bytes)
        return measure_perplexity(
            self._scorer, held_out, len(text), self._inputs.separator, config.context_tokens,
            config.window_overlap_tokens,
        )  # fmt: skip

    def needle(self) -> Figures:
        """Recall by length and depth."""
        config, inputs = self._config, self._inputs
        text = inputs.validation.tokens[: 50 * config.context_tokens * config.needle.samples_per_cell]
        questions = make_questions(
            config.needle, config.needle_lengths, text, inputs.separator, inputs.encode, config.seed
        )
        cells = []
        for length, group in groupby(questions, key=lambda question: question.length):
            self._context.report(0.4, f"needle recall at {length} tokens", None)
            cells += ask(self._scorer, config.needle, list(group))
        return {"chance": 1 / config.needle.candidates, "cells": [asdict(cell) for cell in cells]}

    def samples(self) -> Figures:
        """Text, for people."""
        inputs = self._inputs
        return {"texts": write_samples(inputs.interface, self._config.samples)}

    def baselines(self) -> Figures:
        """The n-gram models."""
        inputs = self._inputs
        return measure_baselines(
            inputs.training, self._held_out, inputs.token_bytes, inputs.interface.info().vocabulary_size,
            self._config.baseline_training_bytes,
        )  # fmt: skip


def _conclude(
    context: StageContext[EvaluationConfig], results: dict[str, Figures], seconds: dict[str, float]
) -> StageResult:
    """Metrics, verdicts, files and plots from the tasks' figures."""
    cells = [Cell(**cell) for cell in results["needle"]["cells"]]
    metrics = _metrics(results, cells)
    verdicts = judge(context.config.gates, metrics)
    gates = [row.as_row() for row in verdicts]
    passed = all_passed(verdicts)
    recall = [cell.as_row() for cell in cells]
    speed = results.pop("speed")
    _write_json(context.directory / RESULTS_FILE, {**results, "recall": recall, "gates": gates, "gates_passed": passed})
    _write_json(context.directory / TIMINGS_FILE, {"speed": speed, "seconds": seconds})
    _draw(context.directory / "plots", results, cells)
    statistics = {
        "samples": results["samples"]["texts"],
        "gates_passed": passed,
        "baselines": results["baselines"],
        "held_out": {key: results["perplexity"][key] for key in ("documents", "tokens", "bytes")},
    }
    tables = {
        "gates": gates,
        "bits per byte": _comparison(results),
        "perplexity by position": results["perplexity"]["by_position"],
        "needle recall": recall,
        "samples": results["samples"]["texts"],
    }
    return StageResult(metrics, {name: rows for name, rows in tables.items() if rows}, statistics)


def _metrics(results: dict[str, Figures], cells: list[Cell]) -> dict[str, float]:
    perplexity, speed = results["perplexity"], results["speed"]
    metrics = {f"eval/{key}": float(perplexity[key]) for key in ("bits_per_byte", "loss", "perplexity")}
    for key, value in results["baselines"].items():
        if key.endswith("bits_per_byte"):
            metrics[f"eval/baseline_{key}"] = float(value)
    if cells:
        pooled = pool(cells)
        metrics["eval/needle/recall"] = pooled.correct / pooled.samples
        metrics["eval/needle/gain_nats"] = pooled.gain_nats
        metrics["eval/needle/chance"] = float(results["needle"]["chance"])
        for length, group in groupby(cells, key=lambda cell: cell.length):
            at_length = pool(list(group))
            metrics[f"eval/needle/recall_{length}"] = at_length.correct / at_length.samples
    metrics |= {
        "eval/prefill_tokens_per_second": speed["prefill_tokens_per_second"],
        "eval/decode_tokens_per_second": speed["decode_tokens_per_second"],
        "eval/peak_rss_mb": speed["peak_rss_bytes"] / 1e6,
        "eval/recurrent_state_bytes": float(speed["recurrent_state_bytes"]),
        "eval/kv_cache_bytes": float(speed["kv_cache_bytes"]),
    }
    return metrics


def _comparison(results: dict[str, Figures]) -> list[dict[str, Any]]:
    """Bits per byte of the model and its baselines, and the share saved against each."""
    baselines, ours = results["baselines"], results["perplexity"]["bits_per_byte"]
    figures = {
        "model": ours,
        "byte unigram": baselines["unigram_bits_per_byte"],
        "byte 5-gram": baselines["5gram_bits_per_byte"],
        "token unigram": baselines["token_unigram_bits_per_byte"],
        "token 5-gram": baselines["token_5gram_bits_per_byte"],
    }
    return [
        {"predictor": name, "bits_per_byte": value, "model_needs_less": 1 - ours / value}
        for name, value in figures.items()
    ]


def _draw(directory: Path, results: dict[str, Figures], cells: list[Cell]) -> None:
    plot_bits_per_byte(
        directory / "bits_per_byte.png", {row["predictor"]: row["bits_per_byte"] for row in _comparison(results)}
    )
    plot_positions(directory / "perplexity_by_position.png", results["perplexity"]["by_position"])
    if cells:
        plot_recall(directory / "needle_recall.png", cells, results["needle"]["chance"])


def _write_json(path: Path, content: Figures) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())


STAGE = Stage(name="evaluation", kind="evaluation", version=2, config_type=EvaluationConfig, run=evaluate)
