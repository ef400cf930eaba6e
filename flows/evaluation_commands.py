"""`sam2 eval`: any model measured, or several side by side, without a pipeline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from tasks.evaluation.standalone import Evaluated, StandaloneConfig

console = Console(highlight=False)


def add_evaluation_commands(app: typer.Typer) -> None:
    """Put the command into the `sam2` command line."""
    app.command("eval")(evaluate)


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A checkpoint or bundle directory, a .gguf file, an ONNX export, a Hugging Face directory or "
            "hf://org/name; several are compared with the first.",
            metavar="MODEL...",
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Benchmarks, separated by commas; `all` or `none`.", metavar="LIST")
    ] = "all",
    data: Annotated[Path, typer.Option(help="Directory with <benchmark>/<split>.jsonl files.")] = Path("eval-data"),
    hub: Annotated[
        bool, typer.Option("--hub", help="Take missing data from the Hugging Face Hub (with HF_HUB_OFFLINE=0).")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each benchmark, evenly spread.")] = None,
    shots: Annotated[
        list[str] | None, typer.Option(help="Examples before each question, e.g. --shots mmlu=5; repeatable.")
    ] = None,
    measure: Annotated[
        str, typer.Option(help="Besides: speed, needle, positions, separated by commas; or `none`.", metavar="LIST")
    ] = "speed,needle,positions",
    context: Annotated[
        int | None, typer.Option(min=16, help="Context of these; by default the model's own, at most 4,096.")
    ] = None,
    run_generated_code: Annotated[
        bool, typer.Option("--run-generated-code", help="Let HumanEval run what the model writes, in a sandbox.")
    ] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json, where the model brings none.")] = None,
    runtime: Annotated[str | None, typer.Option(help="torch, llama.cpp, onnxruntime or transformers.")] = None,
    output: Annotated[
        Path, typer.Option(help="Results go into a directory of each model's name below this one.")
    ] = Path("evaluations"),
    restart: Annotated[bool, typer.Option("--restart", help="Replace results of other choices.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Measure models: the field's benchmarks beside GPT-3's figures, perplexity, needle recall, speed, memory.

    An interrupted evaluation continues where it stopped. What could not be run is listed with its reason.
    """
    from tasks.evaluation.standalone import evaluate_model

    config = _configuration(tasks, data, hub, limit, shots or [], measure, context, run_generated_code)
    found = []
    with console.status("opening", spinner="line") as status:
        for model, name in zip(models, _directory_names(models), strict=True):
            found.append(
                evaluate_model(
                    model,
                    output / name,
                    config,
                    tokenizer=tokenizer,
                    runtime=runtime,
                    restart=restart,
                    say=lambda message: status.update(escape(message)),
                )
            )
    if as_json:
        console.print_json(data=[_as_json(one) for one in found])
    else:
        _show(found)


def _configuration(
    tasks: str,
    data: Path,
    hub: bool,
    limit: int | None,
    shots: Sequence[str],
    measure: str,
    context: int | None,
    run_generated_code: bool,
) -> StandaloneConfig:
    from pydantic import ValidationError

    from flows.overrides import explain_validation
    from tasks.evaluation.benchmarks import BenchmarkName
    from tasks.evaluation.standalone import StandaloneConfig

    content = {
        "benchmarks": {
            "tasks": list(BenchmarkName) if tasks == "all" else _listed(tasks),
            "data_directory": str(data),
            "hub": hub,
            "limit": limit,
            "shots": dict(_assignment(one) for one in shots),
            "run_generated_code": run_generated_code,
        },
        "measurements": _listed(measure),
        "context_tokens": context,
    }
    try:
        return StandaloneConfig.model_validate(content)
    except ValidationError as error:
        raise explain_validation(error, "sam2 eval", StandaloneConfig) from error


def _listed(text: str) -> list[str]:
    return [] if text == "none" else [part.strip() for part in text.split(",") if part.strip()]


def _assignment(text: str) -> tuple[str, int]:
    from infra.errors import ConfigurationError

    name, _, number = text.partition("=")
    if not number.isdigit():
        raise ConfigurationError(f"--shots {text} is not NAME=NUMBER.", "write e.g. --shots mmlu=5.")
    return name, int(number)


def _directory_names(models: Sequence[str]) -> list[str]:
    """The end of each path, and more of it where several end alike; of a bundle's `model/`, the bundle."""
    from infra.errors import ConfigurationError

    parts = [[part for part in re.split(r"[/\\]+", model.removeprefix("hf://")) if part not in ("", ".")]
             for model in models]  # fmt: skip
    for used in range(1, 1 + max(map(len, parts))):
        names = [re.sub(r"[^A-Za-z0-9._@-]+", "-", "-".join(part[-used:])) for part in parts]
        if len(set(names)) == len(names) and (used > 1 or "model" not in names):
            return names
    raise ConfigurationError("a model is given twice.", "name each once.")


def _show(found: Sequence[Evaluated]) -> None:
    from tasks.evaluation.benchmarks import BENCHMARKS
    from tasks.evaluation.benchmarks.results import shown

    table = Table("benchmark", "metric", "GPT-3", "target", box=None)
    for one in found:
        table.add_column(one.directory.name, justify="right")
    for benchmark, results in zip(
        BENCHMARKS.values(), zip(*(one.benchmarks for one in found), strict=True), strict=True
    ):
        cells = []
        for result in results:
            measured = (result.metrics or {}).get(benchmark.metric)
            cells.append(
                f"[dim]{result.status}[/]" if measured is None else shown(measured.value, measured.standard_error, "–")
            )
        table.add_row(
            benchmark.title,
            benchmark.metric.partition(",")[0],
            shown(benchmark.gpt3, missing="–"),
            shown(benchmark.target, missing="–"),
            *cells,
        )
    console.print(table)
    for one in found:
        console.print(f"\n[bold]{escape(one.title)}[/]  {one.info['parameters'] / 1e6:,.1f}M parameters, "
                      f"{one.info['file_bytes'] / 1e6:,.1f} MB, {one.info['format']}")  # fmt: skip
        for name, value in one.metrics.items():
            if name.startswith(("eval/prefill", "eval/decode", "eval/peak", "eval/needle")):
                console.print(f"  {name.removeprefix('eval/').replace('_', ' ')}: {value:,.4g}")
        for reason, names in _left_out(one).items():
            console.print(f"  {', '.join(names)}: {escape(reason)}", style="dim")
        console.print(f"  {escape(str(one.directory))}")
    for other in found[1:]:
        _compare(found[0], other)


def _left_out(one: Evaluated) -> dict[str, list[str]]:
    """What has no figure, by its reason."""
    from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, Status

    named = [(result.reason, BENCHMARKS[BenchmarkName(result.name)].title, result.status) for result in one.benchmarks]
    found: dict[str, list[str]] = {}
    for reason, title, status in [*named, *((reason, name, Status.NOT_RUN) for name, reason in one.not_run.items())]:
        if status is not Status.MEASURED:
            found.setdefault(f"{status}: {reason}", []).append(title)
    return found


def _compare(first: Evaluated, other: Evaluated) -> None:
    """What is shown to differ between two models, item by item."""
    from flows.registry_commands import show_comparison
    from tasks.evaluation.items import ITEMS_FILE, read_items
    from tasks.registration.comparison import compare
    from tasks.registration.comparison_report import PAGE, write_comparison

    comparison = compare(
        read_items(other.directory / ITEMS_FILE),
        read_items(first.directory / ITEMS_FILE),
        (other.directory.name, first.directory.name),
    )
    show_comparison(comparison)
    directory = other.directory / f"against-{first.directory.name}"
    directory.mkdir(exist_ok=True)
    write_comparison(directory, comparison)
    console.print(escape(str(directory / PAGE)))


def _as_json(one: Evaluated) -> dict[str, Any]:
    return {
        "model": one.title,
        "directory": str(one.directory),
        "info": one.info,
        "benchmarks": [result.as_json() for result in one.benchmarks],
        "metrics": one.metrics,
        "not_run": one.not_run,
    }
