"""WikiText-2 by how much context the model sees: what its perplexity a word, which the benchmark gives, leaves out."""

from __future__ import annotations

from model.interface import ModelInterface
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarksConfig
from tasks.evaluation.benchmarks.data import DataUnavailable, read_data
from tasks.evaluation.benchmarks.running import NOT_ASKED_FOR
from tasks.evaluation.task_result import TaskResult
from tasks.evaluation.text_perplexity import measure_text_perplexity


def wikitext_pages(config: BenchmarksConfig) -> list[str]:
    """The pages as the data set has them. Raises DataUnavailable."""
    return [str(row["page"]) for row in read_data(config, BENCHMARKS[BenchmarkName.WIKITEXT]).rows]


def measure_wikitext(model: ModelInterface, config: BenchmarksConfig, context: int, tokens: int) -> TaskResult:
    """Perplexity of the first pages of about `tokens` tokens, by visible context of up to `context` tokens.

    Pages are detokenized and counted as the harness's `wikitext` does. Where there is no data, the figures say why.
    """
    if BenchmarkName.WIKITEXT not in config.tasks:
        return TaskResult(figures={"not_run": NOT_ASKED_FOR})
    try:
        pages = wikitext_pages(config)
    except DataUnavailable as unavailable:
        return TaskResult(figures={"not_run": str(unavailable)})
    # The harness's tasks take seconds to import.
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    texts: list[str] = []
    for page in pages:
        if tokens <= 0:
            break
        texts.append(wikitext_detokenizer({"page": page}))
        tokens -= len(model.encode(texts[-1]))
    figures = measure_text_perplexity(model, texts, context, pages[: len(texts)])
    return TaskResult(figures=figures, tables={"WikiText-2 by position": figures["by_position"]})
