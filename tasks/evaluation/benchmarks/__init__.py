"""The field's benchmarks, through lm-eval, on any model behind our interface.

Public surface: `BenchmarksConfig`, `resolve_benchmarks`, `run_benchmark`, and the results' tables. `adapter` and
`harness` import lm-eval, which takes seconds, and so are imported where they are used.
"""

from tasks.evaluation.benchmarks.catalog import BENCHMARKS, BenchmarkName
from tasks.evaluation.benchmarks.config import BenchmarksConfig
from tasks.evaluation.benchmarks.data import DataUnavailable, resolve_benchmarks
from tasks.evaluation.benchmarks.results import BenchmarkResult, Status, metric_values, table_rows

__all__ = [
    "BENCHMARKS",
    "BenchmarkName",
    "BenchmarkResult",
    "BenchmarksConfig",
    "DataUnavailable",
    "Status",
    "metric_values",
    "resolve_benchmarks",
    "table_rows",
]
