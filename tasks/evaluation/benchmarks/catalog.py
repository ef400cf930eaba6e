"""The benchmarks: what each is in the harness, where its data is, and the figures it is set against.

GPT-3's figures and the targets are those of the project's roadmap for small language models, as it states them;
they are not measured here, and for some the roadmap does not say how they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BenchmarkName(StrEnum):
    """Names in profiles, on the command line and in results; also the folders below the data directory."""

    MMLU = "mmlu"
    HELLASWAG = "hellaswag"
    ARC_EASY = "arc_easy"
    ARC_CHALLENGE = "arc_challenge"
    TRUTHFULQA = "truthfulqa"
    PIQA = "piqa"
    WINOGRANDE = "winogrande"
    BOOLQ = "boolq"
    GSM8K = "gsm8k"
    HUMANEVAL = "humaneval"
    WIKITEXT = "wikitext"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    yaml: the task's configuration below the harness's own `tasks` folder. metrics: those reported, the first one first.
    fields: columns every row must have. gpt3 and target in the metric's own unit.
    """

    name: BenchmarkName
    title: str
    yaml: str
    metrics: tuple[str, ...]
    hub_path: str
    hub_name: str | None
    split: str
    fields: tuple[str, ...]
    example_split: str | None = None
    default_shots: int = 0
    gpt3: float | None = None
    target: float | None = None
    higher_is_better: bool = True

    @property
    def metric(self) -> str:
        """The one that the table shows."""
        return self.metrics[0]


_CHOICES = ("acc", "acc_norm")
_NORMALISED = ("acc_norm", "acc")  # by the answer's length, as GPT-3's authors and the leaderboards score these

BENCHMARKS: dict[BenchmarkName, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            BenchmarkName.MMLU, "MMLU", "mmlu/default/_default_template_yaml", ("acc",), "cais/mmlu", "all", "test",
            ("question", "choices", "answer", "subject"), "dev", gpt3=0.437, target=0.45,
        ),
        Benchmark(
            BenchmarkName.HELLASWAG, "HellaSwag", "hellaswag/hellaswag.yaml", _NORMALISED, "Rowan/hellaswag", None,
            "validation", ("activity_label", "ctx_a", "ctx_b", "endings", "label"), "train", gpt3=0.788, target=0.80,
        ),
        Benchmark(
            BenchmarkName.ARC_EASY, "ARC-Easy", "arc/arc_easy.yaml", _CHOICES, "allenai/ai2_arc", "ARC-Easy", "test",
            ("question", "choices", "answerKey"), "train", gpt3=0.683, target=0.70,
        ),
        Benchmark(
            BenchmarkName.ARC_CHALLENGE, "ARC-Challenge", "arc/arc_challenge.yaml", _NORMALISED, "allenai/ai2_arc",
            "ARC-Challenge", "test", ("question", "choices", "answerKey"), "train", gpt3=0.51, target=0.55,
        ),
        Benchmark(
            BenchmarkName.TRUTHFULQA, "TruthfulQA", "truthfulqa/truthfulqa_mc1.yaml", ("acc",),
            "truthfulqa/truthful_qa", "multiple_choice", "validation", ("question", "mc1_targets"),
            gpt3=0.28, target=0.35,
        ),
        Benchmark(
            BenchmarkName.PIQA, "PIQA", "piqa/piqa.yaml", _CHOICES, "baber/piqa", None, "validation",
            ("goal", "sol1", "sol2", "label"), "train", gpt3=0.811, target=0.82,
        ),
        Benchmark(
            BenchmarkName.WINOGRANDE, "WinoGrande", "winogrande/default.yaml", ("acc",), "allenai/winogrande",
            "winogrande_xl", "validation", ("sentence", "option1", "option2", "answer"), "train",
            gpt3=0.70, target=0.72,
        ),
        Benchmark(
            BenchmarkName.BOOLQ, "BoolQ", "super_glue/boolq/default.yaml", ("acc",), "aps/super_glue", "boolq",
            "validation", ("passage", "question", "label"), "train", gpt3=0.76, target=0.78,
        ),
        Benchmark(
            BenchmarkName.GSM8K, "GSM8K", "gsm8k/gsm8k.yaml",
            ("exact_match,strict-match", "exact_match,flexible-extract"),
            "openai/gsm8k", "main", "test", ("question", "answer"), "train", default_shots=5, gpt3=0.10, target=0.20,
        ),
        Benchmark(
            BenchmarkName.HUMANEVAL, "HumanEval", "humaneval/humaneval.yaml", ("pass@1",), "openai/openai_humaneval",
            None, "test", ("task_id", "prompt", "test", "entry_point"), gpt3=0.20, target=0.25,
        ),
        Benchmark(
            BenchmarkName.WIKITEXT, "WikiText-2", "wikitext/wikitext.yaml",
            ("word_perplexity", "byte_perplexity", "bits_per_byte"), "EleutherAI/wikitext_document_level",
            "wikitext-2-raw-v1", "test", ("page",), target=15.0, higher_is_better=False,
        ),
    )
}  # fmt: skip
