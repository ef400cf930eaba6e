"""The benchmarks' data: files of a directory, or data sets of the Hugging Face Hub; or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from infra.errors import ConfigurationError
from tasks.evaluation.benchmarks.catalog import BENCHMARKS, Benchmark
from tasks.evaluation.benchmarks.config import BenchmarksConfig

Row = dict[str, Any]


class DataUnavailable(Exception):
    """There is no data; the text says why, and what would change that."""


@dataclass(frozen=True)
class BenchmarkData:
    """Rows by split; `examples` are what few-shot prompts are made of."""

    rows: list[Row]
    examples: list[Row]
    source: str  # where it is from, for people


def resolve_benchmarks(config: BenchmarksConfig) -> BenchmarksConfig:
    """The same config with the state of every benchmark's data filled in, so that results follow the data.

    What cannot be had stays out, and is reported as not run. Raises ConfigurationError when data changed that was
    given with its checksum.
    """
    found = {name: digest for name in config.tasks if (digest := _digest(config, BENCHMARKS[name])) is not None}
    for name, given in config.data.items():
        if found.get(name) != given:
            raise ConfigurationError(
                f"evaluation.benchmarks.data.{name} is {given}, the data is {found.get(name, 'not there')}.",
                f"restore it in '{config.data_directory}', or remove the entry to accept what is there.",
            )
    return config.model_copy(update={"data": found})


def read_data(config: BenchmarksConfig, benchmark: Benchmark) -> BenchmarkData:
    """The benchmark's items and its examples.

    Raises DataUnavailable where there is none, ConfigurationError for a damaged file or a row without a field.
    """
    splits = {"rows": benchmark.split}
    if shots_of(config, benchmark) > 0:
        if benchmark.example_split is None:
            raise ConfigurationError(
                f"evaluation.benchmarks.shots asks for examples of {benchmark.name}, which has none.",
                f"remove {benchmark.name} from shots.",
            )
        splits["examples"] = benchmark.example_split
    folder = Path(config.data_directory) / benchmark.name
    if (folder / f"{benchmark.split}.jsonl").is_file():
        rows = {key: list(_read_file(folder / f"{split}.jsonl", benchmark)) for key, split in splits.items()}
        return BenchmarkData(rows["rows"], rows.get("examples", []), str(folder))
    return _read_hub(config, benchmark, splits)


def shots_of(config: BenchmarksConfig, benchmark: Benchmark) -> int:
    """Examples before each question."""
    return config.shots.get(benchmark.name, benchmark.default_shots)


def _digest(config: BenchmarksConfig, benchmark: Benchmark) -> str | None:
    """Of the files a run would read, or the data set's revision; None when there is neither."""
    folder = Path(config.data_directory) / benchmark.name
    if (folder / f"{benchmark.split}.jsonl").is_file():
        digest = xxhash.xxh3_128()
        for split in (benchmark.split, benchmark.example_split):
            path = folder / f"{split}.jsonl"
            if split is not None and path.is_file():
                for _ in _read_file(path, benchmark):  # a damaged file is told now, not after the training
                    pass
                digest.update(split.encode() + b"\0" + path.read_bytes())
        return f"xxh3:{digest.hexdigest()}"
    try:
        return f"hub:{_hub_revision(config, benchmark)}"
    except DataUnavailable:
        return None


def _read_file(path: Path, benchmark: Benchmark) -> Iterator[Row]:
    if not path.is_file():
        raise DataUnavailable(
            f"examples are shown before each question, and '{path}' with them is not there "
            f"(evaluation.benchmarks.shots.{benchmark.name}: 0 asks without)"
        )
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ConfigurationError(
                    f"'{path}', line {number}: not JSON ({error}).", "correct that line."
                ) from None
            _check_fields(row, benchmark, f"'{path}', line {number}")
            yield row


def _check_fields(row: Any, benchmark: Benchmark, where: str) -> None:
    missing = [name for name in benchmark.fields if not isinstance(row, Mapping) or name not in row]
    if missing:
        raise ConfigurationError(
            f"{where}: no field '{missing[0]}'.",
            f"give the rows in the schema of '{benchmark.hub_path}' on the Hub: {', '.join(benchmark.fields)}.",
        )


def _check_hub(config: BenchmarksConfig, benchmark: Benchmark) -> None:
    place = f"'{Path(config.data_directory) / benchmark.name / (benchmark.split + '.jsonl')}' is not there"
    if not config.hub:
        raise DataUnavailable(f"{place}, and evaluation.benchmarks.hub is not set")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0", "false", "False"):
        raise DataUnavailable(f"{place}, and HF_HUB_OFFLINE keeps this machine from the Hub")


def _hub_revision(config: BenchmarksConfig, benchmark: Benchmark) -> str:
    _check_hub(config, benchmark)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(benchmark.hub_path, timeout=30).sha)
    except (HfHubHTTPError, OSError) as error:  # its own connection errors are OSErrors
        raise DataUnavailable(
            f"data set '{benchmark.hub_path}' of the Hub cannot be reached: {_brief(error)}"
        ) from error


def _read_hub(config: BenchmarksConfig, benchmark: Benchmark, splits: Mapping[str, str]) -> BenchmarkData:
    _check_hub(config, benchmark)
    import datasets

    revision = config.data.get(benchmark.name, "").removeprefix("hub:") or None
    found: dict[str, list[Row]] = {}
    for key, split in splits.items():
        try:
            loaded = datasets.load_dataset(benchmark.hub_path, benchmark.hub_name, split=split, revision=revision)
        except Exception as error:  # whatever keeps the data away is a reason, not the end of the run
            raise DataUnavailable(
                f"data set '{benchmark.hub_path}' of the Hub cannot be read: {_brief(error)}"
            ) from error
        found[key] = [dict(row) for row in loaded]
        for number, row in enumerate(found[key]):
            _check_fields(row, benchmark, f"'{benchmark.hub_path}', {split}, row {number}")
    return BenchmarkData(found["rows"], found.get("examples", []), f"{benchmark.hub_path}@{revision or 'newest'}")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
