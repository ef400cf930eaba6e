"""The report's sections, in reading order. Each takes the summary and says what is known, or that it is not."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.reporting import facts
from tasks.reporting.blocks import (
    Bar,
    Bars,
    Block,
    Cell,
    Code,
    Document,
    Documents,
    Facts,
    HeatMap,
    Image,
    LinkList,
    Note,
    Section,
    Table,
    bars,
    table,
)
from tasks.reporting.charts import Axes, Point, Series, line_chart, scatter_chart
from tasks.reporting.excerpts import excerpt, redacted
from tasks.reporting.formatting import NOT_KNOWN, dollars, duration, figure, heading, number, percent, size
from tasks.reporting.plan_section import plan_section
from tasks.reporting.summary import RunSummary, StageSummary
from tasks.reporting.training_section import training_blocks

_NOT_RUN = "Not run."
_SAMPLE_DOCUMENTS = 4
#: Suffixes of plots that the report draws itself from the numbers.
_REDRAWN = re.compile(
    r"loss|formats|duplicates|tokens_by_source|bits_per_byte|recall|needle|position|quality_funnel|documents_by_source|funnel|size",
    re.IGNORECASE,
)
_CURRICULUM = ("context_tokens", "batch_tokens", "learning_rate", "final_learning_rate")
_TOKENS_OF = "tokens/source/"
_MAXIMUM_PICTURE_BYTES = 1_500_000


def all_sections(summary: RunSummary) -> list[Section]:
    """Every section after the headline."""
    makers: list[Callable[[RunSummary], Section]] = [
        pipeline, data, documents, tokenizer, training, evaluation, quantization, gates, registration, samples,
        cost, lineage, environment,
    ]  # fmt: skip
    sections = [make(summary) for make in makers]
    plan = plan_section(summary)
    if plan is not None:
        sections.insert(1 + [section.anchor for section in sections].index("cost"), plan)
    return sections


def pipeline(summary: RunSummary) -> Section:
    """Which stages ran, how long each took and what it cost."""
    rows, elapsed = [], 0.0
    total = sum(stage.seconds for stage in summary.stages) or 1.0
    for stage in summary.stages:
        state, tone = _state_of(stage)
        length, start = 100 * stage.seconds / total, 100 * elapsed / total
        rows.append(Bar(stage.title, duration(stage.seconds), length, start, tone, note=dollars(stage.usd), mark=state))
        elapsed += stage.seconds
    reused = sum(1 for stage in summary.stages if stage.reused)
    blocks: list[Block] = [Bars("Where the time went", rows)] if rows else [Note("No stage was started.", "bad")]
    blocks += [Note(f"{stage.title} failed: {stage.error}", "bad") for stage in summary.stages if stage.error]
    lede = (
        f"{len(summary.stages)} stages in {duration(total)}; "
        + (f"{reused} of them reused, checksums verified." if reused else "none was reused.")
        if rows
        else ""
    )
    return Section("pipeline", "Pipeline", lede, blocks)


def _state_of(stage: StageSummary) -> tuple[str, str]:
    if stage.error or stage.manifest is None:
        return "failed", "bad"
    return ("reused", "quiet") if stage.reused else ("built", "accent")


def data(summary: RunSummary) -> Section:
    """What went in, what each filter took, what was left."""
    stages = facts.data_stages(summary)
    if not stages:
        return Section("data", "Data", _NOT_RUN)
    blocks: list[Block] = []
    steps = facts.funnel(summary)
    lede = ""
    if steps:
        first, final = steps[0], steps[-1]
        lede = (
            f"{number(final.total)} of {number(first.total)} documents were kept"
            f" ({percent(final.total / first.total)}); what was removed is stored with its reason."
            if first.total
            else ""
        )
        entries = [(step.title, float(step.total), number(step.total)) for step in steps]
        blocks.append(bars("Documents after each stage", entries))
        blocks.append(table("Documents kept, by source", _funnel_rows(steps)))
    for stage in stages:
        blocks += _tables_of(stage)
    return Section("data", "Data", lede, [*blocks, *_pictures(stages)])


def _funnel_rows(steps: Sequence[facts.FunnelStep]) -> list[dict[str, Any]]:
    """One row a source: documents after each stage and the share that is left."""
    sources = list(dict.fromkeys(source for step in steps for source in step.documents))
    rows = []
    for source in sources:
        counts = {step.title: step.documents.get(source, 0) for step in steps}
        first, final = steps[0].documents.get(source, 0), steps[-1].documents.get(source, 0)
        rows.append({"source": source, **counts, "kept_share": final / first if first else None})
    return rows


def documents(summary: RunSummary) -> Section:
    """A few documents that were kept, and a few that were not."""
    kept = facts.kept_samples(summary, _SAMPLE_DOCUMENTS)
    removed = facts.removed_samples(summary, _SAMPLE_DOCUMENTS + 2)
    if not kept and not removed:
        return Section("documents", "Sample documents", "No document files on this machine.")
    blocks: list[Block] = []
    if kept:
        blocks.append(Documents("Kept", [_document(sample) for sample in kept]))
    if removed:
        blocks.append(Documents("Removed", [_document(sample) for sample in removed]))
    lede = "One of each source and of each reason first. Personal data is masked here too."
    return Section("documents", "Sample documents", lede, blocks)


def _document(sample: facts.DocumentSample) -> Document:
    text = redacted(excerpt(sample.text), sample.reason) or "(no text)"
    if not sample.reason:
        return Document(text, sample.source, "good", sample.origin)
    score = "" if sample.score is None else f", score {number(sample.score)}"
    return Document(text, sample.reason, "bad", f"{sample.stage}{score} · {sample.source} · {sample.origin}")


def tokenizer(summary: RunSummary) -> Section:
    """What the tokenizer learned and how much text became how many tokens."""
    stage = facts.last(summary, facts.TOKENS)
    if stage is None:
        return Section("tokenizer", "Tokenizer", _NOT_RUN)
    metrics = facts.manifest_of(stage).metrics
    by_source = {name: value for name, value in metrics.items() if name.startswith(_TOKENS_OF)}
    blocks = _figures({name: value for name, value in metrics.items() if name not in by_source})
    if by_source:
        entries = [(name.removeprefix(_TOKENS_OF), value, number(value)) for name, value in by_source.items()]
        blocks.append(bars("Tokens by source", entries))
    return Section("tokenizer", "Tokenizer", "", [*blocks, *_tables_of(stage), *_pictures([stage])])


def training(summary: RunSummary) -> Section:
    """The loss over the curriculum, and what each stage was."""
    stages = summary.finished(facts.CHECKPOINT)
    if not stages:
        return Section("training", "Training", _NOT_RUN)
    lede, blocks = training_blocks(summary)
    return Section(
        "training", "Training", lede,
        [*blocks, *_figures_by_stage(stages), *_merged_tables(stages), *_pictures(stages)],
    )  # fmt: skip


def evaluation(summary: RunSummary) -> Section:
    """Bits per byte against the baselines, recall by length and depth, perplexity by context."""
    stage = facts.last(summary, facts.EVALUATION)
    if stage is None:
        return Section("evaluation", "Evaluation", _NOT_RUN)
    manifest = facts.manifest_of(stage)
    drawn = [_bits_per_byte(summary), _recall(stage), _by_position(stage)]
    blocks: list[Block] = [block for block in drawn if block is not None]
    charted = {name for name in manifest.metrics if "baseline_" in name or name.startswith("eval/needle/recall_")}
    blocks += _figures({name: value for name, value in manifest.metrics.items() if name not in charted})
    for name, rows in manifest.tables.items():
        if rows and name != "gates" and not _is_sample(rows):
            blocks.append(table(heading(name), rows, folded=_is_charted(rows)))
    return Section("evaluation", "Evaluation", verdict_on_bits(summary), [*blocks, *_pictures([stage])])


def verdict_on_bits(summary: RunSummary) -> str:
    """How the model compares with the best baseline, in one sentence; empty when either is unknown."""
    bits = facts.metric(summary, facts.EVALUATION, "eval/bits_per_byte")
    others = facts.baselines(summary)
    if bits is None:
        return ""
    if not others:
        return f"{bits:.3f} bits per byte on held-out text; no baseline was measured."
    name, best = min(others.items(), key=lambda item: item[1])
    share = abs(1 - bits / best)
    compared = "below" if bits < best else "above"
    versus = f"{percent(share)} {compared} the best baseline ({name}, {best:.3f})"
    return f"{bits:.3f} bits per byte on held-out text, {versus}."


def _bits_per_byte(summary: RunSummary) -> Bars | None:
    bits = facts.metric(summary, facts.EVALUATION, "eval/bits_per_byte")
    others = sorted(facts.baselines(summary).items(), key=lambda item: item[1])
    if bits is None and not others:
        return None
    entries = [("this model", bits, NOT_KNOWN if bits is None else f"{bits:.3f}")]
    entries += [(name, value, f"{value:.3f}") for name, value in others]
    tones = ["accent", *("quiet" for _ in others)]
    return bars("Bits per byte, held-out text (less is better)", entries, tones=tones)


def _is_recall(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and {"length", "depth", "recall"} <= set(rows[0])


def _is_charted(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the report draws these rows already; the table is then folded."""
    first = set(rows[0])
    return _is_recall(rows) or "bits_per_byte" in first or {"to", "perplexity"} <= first or {"step", "loss"} <= first


def _is_sample(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and "prompt" in rows[0] and bool({"text", "continuation"} & set(rows[0]))


def _recall(stage: StageSummary) -> HeatMap | None:
    manifest = facts.manifest_of(stage)
    rows = next((rows for rows in manifest.tables.values() if _is_recall(rows)), None)
    if rows is None:
        return None
    cells = {(row["length"], row["depth"]): row["recall"] for row in rows}
    lengths = sorted({length for length, _ in cells})
    depths = sorted({depth for _, depth in cells})
    grid = [(f"{depth:.0%}", [cells.get((length, depth)) for length in lengths]) for depth in depths]
    samples = sorted({row["samples"] for row in rows if row.get("samples")})
    chance = manifest.metrics.get("eval/needle/chance")
    asked = " to ".join(str(samples[place]) for place in sorted({0, len(samples) - 1})) if samples else ""
    notes = [f"{asked} needles a cell" if asked else "", f"guessing gives {percent(chance)}" if chance else ""]
    return HeatMap(
        "Needle recall", "depth", "context in tokens", [number(length) for length in lengths], grid,
        "; ".join(note for note in notes if note),
    )  # fmt: skip


def _by_position(stage: StageSummary) -> Block | None:
    tables = facts.manifest_of(stage).tables.values()
    rows = next((rows for rows in tables if rows and {"to", "perplexity"} <= set(rows[0])), None)
    if rows is None or len(rows) < 2:
        return None
    points = [(float(index), float(row["perplexity"])) for index, row in enumerate(rows)]
    names = [f"{row.get('from', '')}–{row['to']}" for row in rows]

    def name_of(position: float) -> str:
        index = round(position)
        return names[index] if index == position and 0 <= index < len(names) else ""

    axes = Axes("tokens of context visible", "perplexity a token", write_x=name_of)
    return line_chart("Perplexity by how much context the model sees", [Series("perplexity", points)], axes)


def quantization(summary: RunSummary) -> Section:
    """What each format weighs and what it loses."""
    stage = facts.last(summary, facts.QUANTIZED)
    if stage is None:
        return Section("quantization", "Quantization", _NOT_RUN)
    rows = format_rows(summary)
    blocks: list[Block] = []
    if rows:
        sizes = [(row.name, row.size_mb, size(row.size_mb * 1e6)) for row in rows if row.size_mb is not None]
        blocks.append(bars("Size", sizes))
        chart = scatter_chart(
            "Size against perplexity (lower left is better)",
            [Point(row.name, row.size_mb, row.perplexity) for row in rows
             if row.size_mb is not None and row.perplexity is not None],
            Axes("MB", "perplexity", room=0.06),
        )  # fmt: skip
        if chart is not None:
            blocks.append(chart)
    for name, figures in facts.manifest_of(stage).tables.items():
        blocks.append(table(heading(name), [_verdict_second(row) for row in figures]))
    return Section("quantization", "Quantization", _quantization_sentence(rows), [*blocks, *_pictures([stage])])


def _verdict_second(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its verdict beside its name, where it is seen without scrolling."""
    names = list(row)
    if "verdict" in names:
        names.remove("verdict")
        names.insert(1, "verdict")
    return {name: row[name] for name in names}


def format_rows(summary: RunSummary) -> list[facts.FormatRow]:
    """Size and perplexity of each format the quantization stage made."""
    stage = facts.last(summary, facts.QUANTIZED)
    return facts.format_rows(facts.manifest_of(stage).metrics) if stage else []


def _quantization_sentence(rows: Sequence[facts.FormatRow]) -> str:
    sized = [row for row in rows if row.size_mb]
    if len(sized) < 2:
        return ""
    smallest, largest = (pick(sized, key=lambda row: row.size_mb or 0) for pick in (min, max))
    assert smallest.size_mb is not None and largest.size_mb is not None
    return (
        f"{smallest.name} is the smallest: {size(smallest.size_mb * 1e6)}, "
        f"{percent(smallest.size_mb / largest.size_mb)} of {largest.name}."
    )


def gates(summary: RunSummary) -> Section:
    """The conditions for promotion and their verdicts."""
    found = facts.gates(summary)
    if not found.rows:
        return Section("gates", "Gates", "Not run: no gate was judged, so nothing may be promoted.")
    lede = f"{found.passed} of {len(found.rows)} passed."
    if not found.all_passed:
        lede += " The model is not promoted to champion."
    return Section("gates", "Gates", lede, [table("", found.rows)])


def registration(summary: RunSummary) -> Section:
    """What the registry holds, and what is in the bundle."""
    stage = facts.last(summary, facts.REGISTRATION)
    blocks: list[Block] = []
    registered = summary.registered
    if registered is not None:
        aliases = ", ".join(registered.aliases) or "none"
        blocks.append(Facts([("Model", registered.name), ("Version", registered.version), ("Aliases", aliases)]))
        if registered.note:
            blocks.append(Note(registered.note, "good" if "champion" in registered.aliases else "warn"))
        alias = next((name for name in ("champion", "candidate", "partial") if name in registered.aliases), None)
        if alias:
            code = f'import mlflow\n\nmodel = mlflow.pyfunc.load_model("models:/{registered.name}@{alias}")\n'
            blocks.append(Code("Use it", code + 'print(model.predict(["Once upon a time"]))'))
    if stage is not None:
        files = facts.manifest_of(stage).tables.get("bundle", [])
        blocks.append(table("Bundle", files))
    if not blocks:
        return Section("registration", "Registration", _NOT_RUN)
    lede = "" if registered else "The bundle is built; no registry version is known to this report."
    return Section("registration", "Registration", lede, blocks)


def samples(summary: RunSummary) -> Section:
    """Text the model wrote, as it wrote it."""
    shown = [
        Document(excerpt(sample.text, 900), sample.model or "sample", lead=excerpt(sample.prompt, 300))
        for sample in summary.samples
    ]
    stage = facts.last(summary, facts.EVALUATION)
    if not shown and stage is not None:
        rows = next((rows for rows in facts.manifest_of(stage).tables.values() if _is_sample(rows)), [])
        shown = [
            Document(excerpt(str(row.get("text", row.get("continuation", ""))), 900), "checkpoint",
                     lead=excerpt(str(row["prompt"]), 300))
            for row in rows
        ]  # fmt: skip
    if not shown:
        return Section("samples", "Text samples", _NOT_RUN)
    lede = "The prompt is set bold; what follows is the model's, unedited."
    return Section("samples", "Text samples", lede, [Documents("", shown)])


def cost(summary: RunSummary) -> Section:
    """What was spent, by stage and against the ceiling."""
    spend = summary.spend
    items = [
        ("This run", dollars(spend.this_run_usd)),
        ("This profile so far, every attempt", dollars(spend.total_usd)),
        ("Ceiling", NOT_KNOWN if spend.ceiling_usd is None else dollars(spend.ceiling_usd)),
        ("Price of an hour", dollars(spend.usd_per_hour)),
    ]
    blocks: list[Block] = [Facts(items)]
    if spend.ceiling_usd:
        share = min(1.0, spend.total_usd / spend.ceiling_usd)
        tone = "bad" if share >= 1 else "warn" if share > 0.8 else "accent"
        said = f"{dollars(spend.total_usd)} of {dollars(spend.ceiling_usd)}"
        blocks.append(Bars("Spent of the ceiling", [Bar(percent(share), said, 100 * share, tone=tone)]))
    if spend.by_stage:
        entries = [(row.stage, row.usd, dollars(row.usd)) for row in spend.by_stage]
        blocks.append(bars("Spend by stage, all attempts", entries))
        rows = [row.model_dump() for row in spend.by_stage]
        blocks.append(table("Attempts and seconds", rows, folded=True))
    lede = f"Price: {spend.price_note}." if spend.price_note else ""
    return Section("cost", "Cost and budget", lede, blocks)


def lineage(summary: RunSummary) -> Section:
    """The artifacts of the run and what each was made from."""
    rows = [
        {
            "stage": stage.title,
            "artifact": f"{stage.manifest.kind}/{stage.manifest.fingerprint[:12]}",
            "made from": ", ".join(_short(reference) for reference in stage.manifest.inputs.values()) or "sources",
            "size_bytes": stage.manifest.size_bytes,
            "content checksum": stage.manifest.content_checksum.rpartition(":")[2][:12],
            "code": stage.manifest.code_version,
        }
        for stage in summary.stages
        if stage.manifest is not None
    ]
    if not rows:
        return Section("lineage", "Lineage", "No artifact was finished.")
    lede = "A fingerprint is the hash of a stage's configuration, its version and its inputs' fingerprints."
    return Section("lineage", "Lineage", lede, [table("", rows)])


def _short(reference: str) -> str:
    kind, _, fingerprint = reference.rpartition("/")
    return f"{kind}/{fingerprint[:8]}"


def environment(summary: RunSummary) -> Section:
    """Where it ran and how to run it again."""
    machine = summary.machine
    items = [
        ("Processor cores", number(machine.cores)),
        ("Memory", size(machine.memory_bytes)),
        ("Accelerator", machine.accelerator or "none"),
        ("Python", machine.python),
        ("Platform", machine.platform or NOT_KNOWN),
        ("Code", summary.code_version or NOT_KNOWN),
        ("Flow run", summary.flow_run_id),
        ("Started (UTC)", f"{summary.started_at:%Y-%m-%d %H:%M:%S}"),
    ]
    command = summary.command or f"prefect deployment run sam2-full-pipeline -p profile={summary.profile}"
    blocks: list[Block] = [Facts(items), Code("Run it again", command)]
    links = [(title, address) for title, address in summary.links.items()]
    if links:
        blocks.append(LinkList(links))
    return Section("environment", "Environment and reproduction", "", blocks)


def _figures(metrics: Mapping[str, float]) -> list[Block]:
    """Metrics as a short list, `group/` taken off when all share it."""
    if not metrics:
        return []
    groups = {name.partition("/")[0] for name in metrics}
    prefix = f"{groups.pop()}/" if len(groups) == 1 else ""
    return [Facts([(heading(name.removeprefix(prefix)), figure(name, value)) for name, value in metrics.items()])]


def _figures_by_stage(stages: Sequence[StageSummary]) -> list[Block]:
    """Every training stage's figures and settings side by side."""
    names = list(dict.fromkeys(name for stage in stages for name in facts.manifest_of(stage).metrics))
    rows = []
    for name in names:
        written = [figure(name, facts.manifest_of(stage).metrics.get(name)) for stage in stages]
        group, _, leaf = name.partition("/")
        title = heading(name if group == "memory" or not leaf else leaf)
        rows.append([Cell(title), *(Cell(text, True) for text in written)])
    for name in _CURRICULUM:
        asked = [facts.manifest_of(stage).config.get(name) for stage in stages]
        if any(value is not None for value in asked):
            rows.append([Cell(heading(name)), *(Cell(figure(name, value), True) for value in asked)])
    columns = [Cell("Figure"), *(Cell(facts.stage_name(stage), True) for stage in stages)]
    return [Table("By stage", columns, rows)] if rows else []


def _merged_tables(stages: Sequence[StageSummary]) -> list[Block]:
    """Tables of the same name in several stages become one, with the stage in the first column."""
    merged: dict[str, list[Mapping[str, Any]]] = {}
    for stage in stages:
        for name, rows in facts.manifest_of(stage).tables.items():
            named = [{"stage": facts.stage_name(stage), **row} for row in rows] if len(stages) > 1 else rows
            merged.setdefault(name, []).extend(named)
    return [table(heading(name), rows, folded=_is_charted(rows)) for name, rows in merged.items() if rows]


def _tables_of(stage: StageSummary) -> list[Block]:
    return [table(heading(name), rows) for name, rows in facts.manifest_of(stage).tables.items() if rows]


def _pictures(stages: Sequence[StageSummary]) -> list[Block]:
    """Plots the report does not draw itself, embedded."""
    pictures: list[Block] = []
    for stage in stages:
        for entry in facts.manifest_of(stage).files:
            wanted = entry.path.startswith("plots/") and entry.path.endswith(".png")
            if not wanted or _REDRAWN.search(entry.path) or entry.size_bytes > _MAXIMUM_PICTURE_BYTES:
                continue
            path = None if stage.directory is None else stage.directory / entry.path
            if path is not None and path.is_file():
                encoded = base64.b64encode(path.read_bytes()).decode()
                pictures.append(Image(heading(path.stem), f"data:image/png;base64,{encoded}"))
    return pictures
