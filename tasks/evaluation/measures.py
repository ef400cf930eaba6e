"""The tasks of an evaluation, each from the stage's inputs to a `TaskResult`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from itertools import groupby

from infra.artifacts import StageContext
from model.sizing import cache_size
from tasks.evaluation.baselines import measure_baselines
from tasks.evaluation.benchmarks.stage_tasks import benchmark_tasks
from tasks.evaluation.config import EvaluationConfig, NeedleConfig
from tasks.evaluation.context_limits import (
    MeasuredLength,
    PlannedLength,
    Targets,
    choose_targets,
    measure_length,
    plan_lengths,
    trained_context,
)
from tasks.evaluation.context_verdicts import claim_basis, claimed_context, rows_of
from tasks.evaluation.held_out import Corpus, choose_documents
from tasks.evaluation.inputs import EvaluationInputs, open_inputs
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.needle import Cell, NeedleQuestion, answer, make_questions, needle_items, pool
from tasks.evaluation.perplexity import document_items, perplexity_of, score_documents
from tasks.evaluation.samples import write_samples
from tasks.evaluation.scoring import InterfaceScorer
from tasks.evaluation.speed import measure_speed
from tasks.evaluation.task_result import Figures, TaskResult
from tasks.evaluation.wikitext import measure_wikitext


class Measures:
    """The tasks; what several of them need is opened when the first one asks."""

    def __init__(self, context: StageContext[EvaluationConfig]) -> None:
        self._context = context
        self._config = context.config

    def tasks(self) -> Mapping[str, Callable[[], TaskResult]]:
        """By name, in the order in which they run: speed first, so that the peak of memory is the model's own."""
        return {
            "speed": self.speed,
            "perplexity": self.perplexity,
            "needle": self.needle,
            "context_limits": self.context_limits,
            "wikitext": self.wikitext,
            "samples": self.samples,
            "baselines": self.baselines,
            **benchmark_tasks(self._context, self._config.benchmarks, lambda: self._inputs.interface),
        }

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

    def speed(self) -> TaskResult:
        """Speed and memory on this machine."""
        memory = PeakMemory()
        speed = measure_speed(self._inputs.interface, self._config.speed, self._config.context_tokens)
        timings = {
            **asdict(speed),
            "peak_rss_bytes": memory.peak_bytes(),
            "peak_added_bytes": memory.added_bytes(),
            **self._cache_bytes(self._config.context_tokens),
        }
        metrics = {
            "eval/prefill_tokens_per_second": speed.prefill_tokens_per_second,
            "eval/decode_tokens_per_second": speed.decode_tokens_per_second,
            "eval/peak_rss_mb": timings["peak_rss_bytes"] / 1e6,
            **{f"eval/{name}": float(size) for name, size in self._cache_bytes(self._config.context_tokens).items()},
        }
        return TaskResult(timings=timings, metrics=metrics)

    def perplexity(self) -> TaskResult:
        """Loss, bits per byte and loss by position."""
        held_out, config, table = self._held_out, self._config, self._inputs.token_bytes
        scores = score_documents(
            self._scorer, held_out, self._inputs.separator, config.context_tokens, config.window_overlap_tokens
        )
        figures = perplexity_of(scores, len(held_out.to_bytes(table)[0]), config.context_tokens)
        return TaskResult(
            figures=figures,
            metrics={f"eval/{key}": float(figures[key]) for key in ("bits_per_byte", "loss", "perplexity")},
            tables={"perplexity by position": figures["by_position"]},
            statistics={"held_out": {key: figures[key] for key in ("documents", "tokens", "bytes")}},
            items=[document_items(scores, held_out, table)],
        )

    def needle(self) -> TaskResult:
        """Recall by length and depth."""
        config = self._config
        answers = []
        for length in config.needle_lengths:
            self._context.report(0.4, f"needle recall at {length} tokens", None)
            if questions := self._questions(config.needle, length):
                answers.append(answer(self._scorer, config.needle, questions))
        cells = [cell for one in answers for cell in one.cells()]
        chance = 1 / config.needle.candidates
        return TaskResult(
            figures={"chance": chance, "cells": [asdict(cell) for cell in cells]},
            metrics=_needle_metrics(cells, chance),
            items=[needle_items(answers)] if answers else [],
        )

    def context_limits(self) -> TaskResult:
        """Perplexity and recall at the training context and beyond; each length is a shard of its own."""
        config, manifest = self._config.context_limits, self._context.inputs["checkpoint"].manifest
        trained = trained_context(config, manifest.config)
        if trained is None:
            reason = (
                "the checkpoint does not say at which context it was trained: "
                "set evaluation.context_limits.trained_tokens"
            )
            return TaskResult(figures={"trained_tokens": None, "rows": [], "cells": [], "not_run": reason})
        planned = self._planned(trained)
        runnable = [one for one in planned if not one.obstacle]
        chance = 1 / self._config.needle.candidates
        measured: dict[int, MeasuredLength] = {}
        timings: Figures = {}
        targets = self._targets(max(one.tokens for one in runnable)) if runnable else None
        for one in runnable:
            assert targets is not None
            measured[one.tokens], timings[str(one.tokens)] = self._length(one, targets)
        rows = rows_of(planned, measured, targets.kind if targets else "", chance, config.tolerance)
        claimed = claimed_context(rows)
        claim = {"claimed_context": claimed, "claimed_context_basis": claim_basis(measured.get(trained), chance)}
        metrics = {
            f"eval/context/{row['length']}/{key}": float(row[key])
            for row in rows
            for key in ("perplexity", "recall")
            if row.get(key) is not None
        }
        if claimed is not None:
            metrics["eval/claimed_context"] = float(claimed)
        cells = [asdict(cell) for one in measured.values() for cell in one.cells]
        return TaskResult(
            figures={"trained_tokens": trained, "rows": rows, "cells": cells, **claim},
            timings=timings,
            metrics=metrics,
            tables={"context limits": rows, "memory by context": self._memory_rows(timings)},
            statistics={"trained_context": trained, **claim},
        )

    def wikitext(self) -> TaskResult:
        """WikiText-2 by position, where its data is."""
        config = self._config
        return measure_wikitext(
            self._inputs.interface, config.benchmarks, config.context_tokens, config.held_out_tokens
        )

    def samples(self) -> TaskResult:
        """Text, for people."""
        texts = write_samples(self._inputs.interface, self._config.samples)
        return TaskResult(figures={"texts": texts}, tables={"samples": texts}, statistics={"samples": texts})

    def baselines(self) -> TaskResult:
        """The n-gram models."""
        inputs = self._inputs
        figures = measure_baselines(
            inputs.training, self._held_out, inputs.token_bytes, inputs.interface.info().vocabulary_size,
            self._config.baseline_training_bytes,
        )  # fmt: skip
        metrics = {
            f"eval/baseline_{key}": float(value) for key, value in figures.items() if key.endswith("bits_per_byte")
        }
        return TaskResult(figures=figures, metrics=metrics, statistics={"baselines": figures})

    @cached_property
    def _limits_needle(self) -> NeedleConfig:
        return self._config.needle.model_copy(update={"samples_per_cell": self._config.context_limits.samples_per_cell})

    def _questions(self, needle: NeedleConfig, length: int) -> list[NeedleQuestion]:
        config, inputs = self._config, self._inputs
        reach = max(length, config.context_tokens)
        text = inputs.validation.tokens[: 50 * reach * needle.samples_per_cell]
        return list(make_questions(needle, [length], text, inputs.separator, inputs.encode, config.seed))

    def _planned(self, trained: int) -> list[PlannedLength]:
        config, inputs = self._config, self._inputs
        held_out = inputs.validation
        return plan_lengths(
            config.context_limits,
            self._limits_needle,
            trained,
            inputs.interface.info().maximum_context,
            len(held_out.tokens) + len(held_out.lengths),
        )

    def _targets(self, longest: int) -> Targets:
        inputs, config = self._inputs, self._config
        return choose_targets(inputs.validation, inputs.separator, longest, config.context_limits, config.seed)

    def _length(self, planned: PlannedLength, targets: Targets) -> tuple[MeasuredLength, Figures]:
        """One length's measurement, and seconds and memory: from its marker where an earlier attempt made it."""
        context, name = self._context, f"context/{planned.tokens}"
        finished = context.shards.statistics(name)
        if finished is None:
            context.report(0.5, f"context of {planned.tokens:,} tokens ({planned.name})", None)
            started, memory, needle = time.monotonic(), PeakMemory(), self._limits_needle
            found = measure_length(
                self._scorer, planned.tokens, targets, needle, self._questions(needle, planned.tokens)
            )
            timings = {"seconds": time.monotonic() - started, "peak_rss_bytes": memory.peak_bytes()}
            finished = {"measured": asdict(found), "timings": timings}
            context.shards.finish(name, [], finished)
        measured = finished["measured"]
        cells = [Cell(**cell) for cell in measured["cells"]]
        return MeasuredLength(measured["tokens"], measured["window_losses"], cells), finished["timings"]

    def _memory_rows(self, timings: Figures) -> list[Figures]:
        """What a sequence of each length measured holds, and the highest memory while it was measured."""
        lengths = sorted({*self._config.needle_lengths, *map(int, timings)})
        rows = [
            {
                "length": length,
                **self._cache_bytes(length),
                **{key: timings[str(length)][key] for key in ("peak_rss_bytes",) if str(length) in timings},
            }
            for length in lengths
        ]
        return [row for row in rows if len(row) > 1]

    def _cache_bytes(self, length: int) -> dict[str, int]:
        """Keys and values, and states, of one sequence; nothing for a model whose shape is not known."""
        config = self._inputs.model_config
        if config is None:
            return {}
        size = cache_size(config, length)
        return {"kv_cache_bytes": size.keys_and_values, "recurrent_state_bytes": size.states}


def _needle_metrics(cells: list[Cell], chance: float) -> dict[str, float]:
    if not cells:
        return {}
    pooled = pool(cells)
    metrics = {
        "eval/needle/recall": pooled.correct / pooled.samples,
        "eval/needle/gain_nats": pooled.gain_nats,
        "eval/needle/chance": chance,
    }
    for length, group in groupby(cells, key=lambda cell: cell.length):
        at_length = pool(list(group))
        metrics[f"eval/needle/recall_{length}"] = at_length.correct / at_length.samples
    return metrics
