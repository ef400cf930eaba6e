"""What can be chosen of the benchmarks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import run_argument
from tasks.evaluation.benchmarks.catalog import BenchmarkName


class BenchmarksConfig(BaseModel):
    """Which benchmarks are run, on what data, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tasks: tuple[BenchmarkName, ...] = Field(
        default=tuple(BenchmarkName), description="benchmarks to run; the others are listed as not run"
    )
    limit: int | None = Field(default=None, ge=1, description="items of each benchmark, evenly spread; default all")
    shots: dict[BenchmarkName, int] = Field(
        default_factory=dict,
        description="examples shown before each question; GSM8K has 5, the others none, where not given",
    )
    open_documents: bool = Field(
        default=False,
        description="put the separator before every prompt, as before every training document; "
        "false is what the harness does with Hugging Face models",
    )
    run_generated_code: bool = Field(
        default=False, description="let HumanEval run the programs the model writes, in a sandbox"
    )
    code_seconds: float = Field(default=10.0, gt=0, description="time of one such program")
    seed: int = Field(default=1234, description="of the choice of examples; the harness's own default")
    data: dict[BenchmarkName, str] = Field(
        default_factory=dict,
        description="checksum of each benchmark's data, or its revision on the Hub; filled in before a run",
    )
    data_directory: str = run_argument(
        "eval-data", "directory with <benchmark>/<split>.jsonl files, in the schema the data has on the Hub"
    )
    hub: bool = run_argument(False, "take what is not in data_directory from the Hugging Face Hub (HF_HUB_OFFLINE=0)")
    code_workers: int | None = run_argument(None, "programs that run side by side; by default one a core", ge=1)
