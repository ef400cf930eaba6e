"""The `sam2` command. One function a command; heavy imports are inside, so that `sam2 --help` is instant."""

from __future__ import annotations

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

import json  # noqa: E402 (the quiet environment comes before anything that might read it)
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Annotated, Any  # noqa: E402

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from flows.answer_commands import add_answer_commands  # noqa: E402
from flows.audit_commands import add_audit_commands  # noqa: E402
from flows.calibration_commands import add_calibration_commands  # noqa: E402
from flows.evaluation_commands import add_evaluation_commands  # noqa: E402
from flows.planning_commands import add_planning_commands  # noqa: E402
from flows.registry_commands import add_registry_commands  # noqa: E402
from flows.spending_commands import add_spending_commands  # noqa: E402
from infra.errors import PipelineError  # noqa: E402

if TYPE_CHECKING:
    from infra.stack import StackSettings, StackState
    from infra.stack.runs import FlowRun, PrefectRuns

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LINES_SHOWN = 40

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
app = typer.Typer(
    name="sam2",
    help="From raw text to a registered, quantized, servable language model, with every dollar accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

PrefectPort = Annotated[
    int | None, typer.Option(help="Exactly this port for the Prefect server (else 4200 or the next free one).")
]
MlflowPort = Annotated[
    int | None, typer.Option(help="Exactly this port for the MLflow server (else 5000 or the next free one).")
]


@app.command()
def up(prefect_port: PrefectPort = None, mlflow_port: MlflowPort = None) -> None:
    """Start the Prefect server, the MLflow server and the worker; harmless when they run already."""
    _ensure_stack(_settings(prefect_port, mlflow_port))


@app.command()
def stop() -> None:
    """Stop the servers, the worker and every run; leaves no process behind."""
    from infra.stack import stop_stack

    stop_stack(_settings(), _say)


@app.command()
def status() -> None:
    """Show the servers, their ports and processes, and the last runs."""
    from infra.stack import stack_status
    from infra.stack.runs import PrefectRuns

    found = stack_status(_settings())
    if not found.running or found.state is None:
        reason = f" It stopped with: {found.state.failure}" if found.state and found.state.failure else ""
        console.print(f"Not running ({found.home}).{reason} Start with `make up` or `sam2 up`.")
        if found.stray_pids:
            console.print(f"Left-over processes: {found.stray_pids}. `sam2 stop` ends them.")
        raise typer.Exit(EXIT_FAILED)
    console.print(f"Prefect {found.state.prefect_url}    MLflow {found.state.mlflow_url}    home {found.home}")
    console.print(_services_table(found.state))
    runs = PrefectRuns(found.state.prefect_api_url).latest(limit=8)
    console.print(_runs_table(runs) if runs else "No runs yet: `sam2 run` starts one.")


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="A profile of flows/profiles/, by name.")] = "smoke",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field, e.g. --set training.seed=3; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is finished, what would run, and what that should cost.")
    ] = False,
    profile_steps: Annotated[
        str | None,
        typer.Option(help="Profile these updates of every training stage that is trained, e.g. 10-12 or 10,50-52."),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Show the run until it ends.")] = True,
    prefect_port: PrefectPort = None,
    mlflow_port: MlflowPort = None,
) -> None:
    """Run the whole pipeline: starts the servers if needed, shows progress, prints the summary and the links.

    Exits with 0 only if the run completed. Ctrl-C leaves the run going.
    """
    from flows.configuration import load_profile
    from flows.overrides import merge, parse_assignments
    from infra.stack.runs import PrefectRuns

    changes = parse_assignments(set_ or [])
    if profile_steps is not None:
        changes = merge(changes, {"training": {"profile_steps": profile_steps}})
    load_profile(profile, changes)  # a mistake is told here, before any server is asked
    parameters = _flow_parameters(profile, dry_run, changes)
    settings = _settings(prefect_port, mlflow_port)
    state = _ensure_stack(settings)
    runs = PrefectRuns(state.prefect_api_url)
    _tell_of_earlier_run(runs, profile)
    submitted = runs.submit(parameters)
    _follow(settings, state, runs, submitted, watch)


@app.command()
def finetune(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Conversations: a JSONL or Parquet file, or a directory of them; repeatable."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model to tune: latest, a registered name, or a fingerprint's beginning.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapters.")] = None,
    profile: Annotated[str, typer.Option(help="A profile of flows/finetune_profiles/, by name.")] = "chat",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field, e.g. --set finetuning.epochs=3; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is finished, what would run, and what that should cost.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Show the run until it ends.")] = True,
    prefect_port: PrefectPort = None,
    mlflow_port: MlflowPort = None,
) -> None:
    """Tune a registered model to conversations with LoRA adapters, measure before and after, register the adapters.

    Exits with 0 only if the run completed. Ctrl-C leaves the run going.
    """
    from flows.finetune_configuration import DEPLOYMENT, load_finetune_profile, overrides_of
    from flows.overrides import merge, parse_assignments
    from infra.stack.runs import PrefectRuns

    changes = merge(overrides_of(data or [], base, name), parse_assignments(set_ or []))
    load_finetune_profile(profile, changes)  # a mistake is told here, before any server is asked
    parameters = _flow_parameters(profile, dry_run, changes)
    settings = _settings(prefect_port, mlflow_port)
    state = _ensure_stack(settings)
    runs = PrefectRuns(state.prefect_api_url)
    _follow(settings, state, runs, runs.submit(parameters, DEPLOYMENT), watch)


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="The run's name or id, or `latest`.", metavar="RUN")] = "latest",
    watch: Annotated[bool, typer.Option(help="Show the run until it ends.")] = True,
) -> None:
    """Continue a failed, crashed or cancelled run from its first unfinished stage, under the same id."""
    from infra.stack.runs import PrefectRuns

    settings = _settings()
    state = _ensure_stack(settings)
    runs = PrefectRuns(state.prefect_api_url)
    _follow(settings, state, runs, runs.retry(runs.find(name)), watch)


@app.command()
def watch(
    name: Annotated[str, typer.Argument(help="The run's name or id, or `latest`.", metavar="RUN")] = "latest",
) -> None:
    """Show a run from its beginning until it ends."""
    from infra.stack import running_state
    from infra.stack.runs import PrefectRuns

    settings = _settings()
    state = running_state(settings)
    runs = PrefectRuns(state.prefect_api_url)
    _follow(settings, state, runs, runs.find(name), True)


@app.command()
def logs(
    what: Annotated[
        str, typer.Argument(help="prefect, mlflow, worker, supervisor, or a run's name or id, or `latest`.")
    ] = "latest",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines of a server's log.")] = LINES_SHOWN,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing a server's new lines.")] = False,
) -> None:
    """Show the log of a server, or of a run."""
    settings = _settings()
    path = settings.log_directory / f"{what}.log"
    if what in ("prefect", "mlflow", "worker", "supervisor"):
        _show_file(path, lines, follow)
    else:
        _show_run_log(settings, what)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    model: Annotated[
        Path | None, typer.Option(help="A model directory or a .gguf file; by default the last registered bundle.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
) -> None:
    """Continue a text with a trained model."""
    from model.generation import SamplingConfig
    from model.interface import GenerationSettings, open_model

    opened = open_model(model if model is not None else _latest_bundle(_settings()))
    sampling = SamplingConfig(temperature=temperature, seed=seed)
    settings = GenerationSettings(maximum_new_tokens=tokens, sampling=sampling)
    console.print(prompt, end="", markup=False, soft_wrap=True)
    for piece in opened.stream(prompt, settings):
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print()


@app.command()
def models() -> None:
    """List the model presets; the cache is what a text of full length takes, keys and values in 16 bits."""
    from model import PRESETS, cache_size, parameter_count

    table = Table(box=None)
    for heading in ("preset", "size", "layers", "context", "cache MB"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("preset", "layers") else "right")
    for name, config in PRESETS.items():
        kinds = {kind: config.mixer_kinds.count(kind) for kind in dict.fromkeys(config.mixer_kinds)}
        cache = cache_size(config, config.maximum_context, element_bytes=2)
        table.add_row(
            name,
            f"{parameter_count(config).total / 1e6:,.1f}M",
            " + ".join(f"{count} {kind}" for kind, count in kinds.items()),
            f"{config.maximum_context:,}",
            f"{cache.total / 1e6:,.1f}",
        )
    console.print(table)


@app.command()
def fit(
    model: Annotated[str, typer.Option(help="A preset (`sam2 models`).")],
    context: Annotated[int, typer.Option(min=16, help="Tokens in a row.")],
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that train together.")] = 1,
    gpu_gb: Annotated[float, typer.Option(min=1, help="What tensors may take of each GPU, 10^9 bytes.")] = 80.0,
    cpu_gb: Annotated[float | None, typer.Option(min=1, help="Memory of the processors, all GPUs together.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without the kernels of the gpu extra.")] = False,
    ways: Annotated[int, typer.Option(min=1, help="How many ways to show.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which settings make a model train on rows of a length on GPUs of a size, the cheapest first."""
    from flows.fitting import fitting_rows, show_fitting

    rows = fitting_rows(model, context, gpus, gpu_gb, cpu_gb, fused=not plain)
    if as_json:
        console.print_json(data=rows[:ways])
    else:
        console.print(show_fitting(rows[:ways], context, gpus, gpu_gb))
    if not rows:
        raise typer.Exit(EXIT_FAILED)


@app.command("export")
def export_model(
    model: Annotated[Path, typer.Argument(help="A checkpoint directory, ours or in a Hugging Face layout.")],
    form: Annotated[
        str,
        typer.Option("--format", help="hugging-face, onnx, int8, int4, gguf-f32, gguf-f16, gguf-q8_0 or gguf-q4_k_m."),
    ],
    output: Annotated[Path, typer.Option(help="The directory (the file, for GGUF) to write; must not exist.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json; by default the one beside the model.")
    ] = None,
) -> None:
    """Write a trained model in another format, whole or not at all."""
    from infra.errors import ConfigurationError
    from model.exports.exporting import ExportFormat, export

    if form not in list(ExportFormat):
        raise ConfigurationError(f"'{form}' is no export format.", f"choose one of: {', '.join(ExportFormat)}.")
    export(model, form, output, tokenizer)
    _say(f"{output}")


@app.command("join")
def join_training(
    job: Annotated[Path, typer.Argument(help="job.json of the stage, on a file system that all machines share.")],
    node: Annotated[int, typer.Option(min=1, help="This machine's number; the first machine, 0, runs the stage.")],
) -> None:
    """Run this machine's ranks of a training stage on several machines, until the stage is finished."""
    from tasks.training.join import join

    join(job, node, _say)


@app.command("train-classifier")
def train_classifier(
    classifier: Annotated[str, typer.Argument(help="quality or spam.", metavar="quality|spam")],
    good: Annotated[list[Path], typer.Option(help="A file of good documents (JSONL, Parquet, text); repeatable.")],
    bad: Annotated[list[Path], typer.Option(help="A file of bad documents or spam; repeatable.")],
    output: Annotated[Path, typer.Option(help="Where the model goes; its report goes beside it.")],
    text_field: Annotated[list[str] | None, typer.Option(help="The field that holds the text; repeatable.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the documents it is judged by.")] = 0.2,
    quantize: Annotated[bool, typer.Option("--quantize", help="A file several times smaller, a little worse.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the documents.")] = 15,
    dimension: Annotated[int, typer.Option(min=1, max=1024, help="Numbers per word vector.")] = 16,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate of the first step.")] = 0.5,
    word_ngrams: Annotated[int, typer.Option(min=1, max=5, help="Longest run of words that counts.")] = 2,
    minimum_count: Annotated[int, typer.Option(min=1, help="Rarer words have no vector.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and files, same model.")] = 0,
) -> None:
    """Train a classifier of good and bad documents, judge it on held-out ones, write model and report."""
    from infra.errors import ConfigurationError
    from tasks.download.formats import FieldChoice
    from tasks.quality.classifier_training import REPORT_SUFFIX, Classifier
    from tasks.quality.classifier_training import train_classifier as train
    from tasks.text.fasttext.training import TrainingSettings

    if classifier not in list(Classifier):
        raise ConfigurationError(f"'{classifier}' is no classifier.", f"choose one of: {', '.join(Classifier)}.")
    report = train(
        Classifier(classifier),
        good,
        bad,
        output,
        TrainingSettings(
            dimension=dimension, epochs=epochs, rate=rate, word_ngrams=word_ngrams, minimum_count=minimum_count,
            seed=seed,
        ),
        held_out_share=held_out,
        fields=FieldChoice(text_fields=tuple(text_field)) if text_field else None,
        quantized=quantize,
    )  # fmt: skip
    table = Table(f"p({report.positive_label}) >=", "found", "precision", "recall", "false positives", box=None)
    for row in report.thresholds:
        precision = "-" if row.precision is None else f"{row.precision:.4f}"
        table.add_row(str(row.threshold), str(row.found), precision, f"{row.recall:.4f}",
                      f"{row.false_positive_rate:.4f}")  # fmt: skip
    _say(f"Trained on {_counts(report.trained)}; judged by {_counts(report.held_out)}.")
    left_out = {reason: count for reason, count in report.left_out.items() if count}
    if left_out:
        _say(f"Left out: {_counts(left_out)}.")
    console.print(table)
    _say(f"{output}  {report.model}\n{output}{REPORT_SUFFIX}")


@app.command()
def doctor(
    online: Annotated[bool, typer.Option(help="Also ask the package index whether it can be reached.")] = False,
) -> None:
    """Check Python, memory, disk, ports, servers and package versions; exits with 1 if something is wrong."""
    from infra.stack.doctor import examine

    table = Table("", "what", "found", "fix", box=None)
    findings = examine(_settings(), online)
    for finding in findings:
        mark = "[green]ok[/]" if finding.is_well else "[red]wrong[/]"
        table.add_row(mark, finding.subject, finding.found, "" if finding.is_well else finding.fix)
    console.print(table)
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(EXIT_FAILED)


add_planning_commands(app)
add_calibration_commands(app)
add_spending_commands(app)
add_answer_commands(app)
add_audit_commands(app)
add_registry_commands(app)
add_evaluation_commands(app)


def main() -> None:
    """Entry point: errors the user can act on are one line, everything else keeps its traceback."""
    try:
        app()
    except PipelineError as error:
        _fail(error)
    except Exception as error:
        # Importing the model package for its error type would make every command wait for torch.
        if type(error).__module__ != "model.errors":
            raise
        _fail(error)


def _flow_parameters(profile: str, dry_run: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """What a run is submitted with: only what differs from the flow's defaults."""
    parameters: dict[str, Any] = {"profile": profile}
    if dry_run:
        parameters["dry_run"] = True
    if changes:
        parameters["overrides"] = changes
    return parameters


def _fail(error: Exception) -> None:
    errors.print(f"sam2: {error}", style="red", markup=False, soft_wrap=True)
    sys.exit(EXIT_FAILED)


def _latest_bundle(settings: StackSettings) -> Path:
    """The model of the newest registration bundle; raises ConfigurationError when nothing was registered yet."""
    from infra.artifacts import ArtifactStore
    from infra.errors import ConfigurationError

    store = ArtifactStore.open(str(settings.home / "artifacts"), settings.home / "artifact-cache")
    bundles = [manifest for manifest in store.manifests() if manifest.kind == "registration"]
    if not bundles:
        raise ConfigurationError(
            f"no model has been registered in {settings.home}.",
            "run the pipeline first, or name one with --model.",
        )
    newest = max(bundles, key=lambda manifest: manifest.created_at)
    return store.working_directory(newest.kind, newest.fingerprint) / "model"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _settings(prefect_port: int | None = None, mlflow_port: int | None = None) -> StackSettings:
    from infra.stack import StackSettings

    return StackSettings.from_environment(prefect_port=prefect_port, mlflow_port=mlflow_port)


def _ensure_stack(settings: StackSettings) -> StackState:
    from infra.stack import start_stack

    return start_stack(settings, _say)


def _tell_of_earlier_run(runs: PrefectRuns, profile: str) -> None:
    """Artifacts are found by fingerprint, so a new run continues where a failed one stopped: say so."""
    earlier = next((found for found in runs.latest(limit=20) if found.profile == profile), None)
    if earlier is not None and earlier.state_name in ("Crashed", "Failed"):
        ended = earlier.state_name.lower()
        _say(f"The last {profile} run, {earlier.name}, {ended}; this one reuses what it finished.")


def _follow(settings: StackSettings, state: StackState, runs: PrefectRuns, submitted: FlowRun, watch: bool) -> None:
    from infra.stack.runs import run_page
    from infra.stack.watching import RunView

    _say(f"Run {submitted.name} ({submitted.profile}): {run_page(state.prefect_url, submitted.id)}")
    if not watch:
        _say(f"Watch it with `sam2 watch {submitted.name}`.")
        return
    try:
        ended = RunView(console).show(runs.follow(submitted.id)) or submitted
    except KeyboardInterrupt:
        _say(
            f"\nThe run goes on. Watch it again: sam2 watch {submitted.name}. "
            f"Cancel it: prefect flow-run cancel {submitted.id}"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _print_ending(settings, state, ended)
    if ended.state_type != "COMPLETED":
        _say(f"Continue it after removing the cause: sam2 retry {ended.name}")
        raise typer.Exit(EXIT_FAILED)


def _print_ending(settings: StackSettings, state: StackState, ended: FlowRun) -> None:
    from infra.stack.runs import mlflow_run_page, run_page

    directory = settings.runs_directory / ended.id
    summary = directory / "summary.txt"
    if summary.exists():
        _say(summary.read_text(encoding="utf-8").rstrip())
    links = {"Prefect": run_page(state.prefect_url, ended.id)}
    try:
        page = mlflow_run_page(state.mlflow_url, ended.id)
        links["MLflow"] = page or f"{state.mlflow_url} (this run logged nothing)"
    except PipelineError as error:
        links["MLflow"] = f"{state.mlflow_url} ({error.problem})"
    report = _report_in(directory / "summary.json")
    if report:
        links["Report"] = report
    for name, link in links.items():
        _say(f"{name:8} {link}")


def _report_in(path: Path) -> str | None:
    """The report's path in a run's summary; a run that broke early has no summary."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        return f"({path} is not readable)"
    report = content.get("report") if isinstance(content, dict) else None
    return str(report) if report else None


def _services_table(state: StackState) -> Table:
    table = Table("service", "process", "health", "restarts", "log", box=None)
    for service in state.services.values():
        health = "[green]healthy[/]" if service.healthy else "[red]not healthy[/]"
        table.add_row(service.name, str(service.pid or "-"), health, str(service.restarts), str(service.log_path))
    return table


def _runs_table(runs: list[FlowRun]) -> Table:
    table = Table("run", "profile", "state", "started", "seconds", box=None)
    for found in runs:
        started = found.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(found.name, found.profile, found.state_name, started, f"{found.total_seconds:.0f}")
    return table


def _show_file(path: Path, lines: int, follow: bool) -> None:
    from infra.stack.supervisor import last_lines

    _say(last_lines(path, lines))
    if not follow:
        return
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0, 2)
            while True:
                text = file.read()
                if text:
                    console.print(text, end="", markup=False, soft_wrap=True)
                time.sleep(0.5)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _show_run_log(settings: StackSettings, name: str) -> None:
    from infra.stack import running_state
    from infra.stack.runs import PrefectRuns

    runs = PrefectRuns(running_state(settings).prefect_api_url)
    for line in runs.logs(runs.find(name).id):
        _say(f"{line.timestamp.astimezone().strftime('%H:%M:%S')} {line.message}")


if __name__ == "__main__":
    main()
