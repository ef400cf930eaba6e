"""What one format's measuring process does: open the file as its users would, and measure speed, memory and loss."""

from __future__ import annotations

import importlib
import math
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model.exports.gguf import read_architecture
from model.interface import ModelInterface, Runtime, open_model
from model.llama_cpp import build_for
from model.llama_cpp.library import open_library
from tasks.evaluation.config import NeedleConfig, SpeedConfig
from tasks.evaluation.memory import PeakMemory
from tasks.evaluation.needle import NeedleQuestion, ask, pool
from tasks.evaluation.scoring import InterfaceScorer
from tasks.evaluation.speed import measure_speed
from tasks.quantization.comparison import compare, unchanged

Figures = dict[str, Any]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Value):
    """One file to measure."""

    name: str
    path: Path
    runtime: Runtime


class MeasuringPlan(_Value):
    """Everything the measuring processes need; read from a file."""

    original: Path = Field(description="checkpoint directory of the float32 model")
    tokenizer: Path
    rows: list[list[int]] = Field(description="held-out documents after their separators")
    questions: list[Figures] = Field(description="needle questions as `plain_question` gives them")
    needle: NeedleConfig
    speed: SpeedConfig
    context_tokens: int
    jobs: list[Job]


def plain_question(question: NeedleQuestion) -> Figures:
    """A question without arrays, for a file."""
    fields = vars(question)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


def _question(plain: Figures) -> NeedleQuestion:
    arrays = {name: np.array(plain[name]) for name in ("prompts", "without_needle")}
    candidates = tuple(tuple(tokens) for tokens in plain["candidates"])
    return NeedleQuestion(**(plain | arrays | {"candidates": candidates, "right": tuple(plain["right"])}))


def measure(plan: MeasuringPlan, job: Job) -> Figures:
    """The figures of one format, or of the original itself.

    A GGUF file in llama.cpp is also read in torch by our own reader, and the two readings compared (`reading`).
    """
    _load_runtime(job)
    memory = PeakMemory()
    model = open_model(job.path, plan.tokenizer, job.runtime)
    speed = measure_speed(model, plan.speed, plan.context_tokens)
    peak = memory.added_bytes()
    return {
        **_distances(plan, job, model),
        "needle": _needle(plan, model),
        "speed": asdict(speed) | {"peak_added_bytes": peak},
    }


def _load_runtime(job: Job) -> None:
    """Libraries are loaded before memory is looked at: they are the runtime's, not the format's."""
    if job.runtime is Runtime.ONNX_RUNTIME:
        importlib.import_module("onnxruntime")
    elif job.runtime is Runtime.LLAMA_CPP:
        open_library(build_for(read_architecture(job.path)))


def _distances(plan: MeasuringPlan, job: Job, model: ModelInterface) -> Figures:
    if job.path == plan.original:
        return {"comparison": asdict(unchanged(model, plan.rows)), "reading": None}
    references = [open_model(plan.original, plan.tokenizer, Runtime.TORCH)]
    if job.runtime is Runtime.LLAMA_CPP:
        references.append(open_model(job.path, plan.tokenizer, Runtime.TORCH))
    found = [finite_or_none(asdict(one)) for one in compare(model, references, plan.rows)]
    return {"comparison": found[0], "reading": found[1] if len(found) > 1 else None}


def _needle(plan: MeasuringPlan, model: ModelInterface) -> Figures:
    scorer = InterfaceScorer(model)
    questions = [_question(plain) for plain in plan.questions]
    cells = []
    for _, group in groupby(questions, key=lambda question: question.length):
        cells += ask(scorer, plan.needle, list(group))
    if not cells:
        return {}
    pooled = pool(cells)
    return finite_or_none(
        {
            "recall": pooled.correct / pooled.samples,
            "gain_nats": pooled.gain_nats,
            "samples": pooled.samples,
            "chance": 1 / plan.needle.candidates,
        }
    )


def finite_or_none(figures: Figures) -> Figures:
    """JSON has no infinity: what is not finite becomes None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in figures.items()
    }
