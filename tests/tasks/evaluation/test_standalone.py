"""Any model is measured by itself; killed at random moments it ends with the same files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from model import load
from model.exports.gguf import GGUFFormat, save_gguf
from tasks.evaluation.benchmarks import BenchmarkName, BenchmarksConfig, Status
from tasks.evaluation.items import ITEMS_FILE, read_items
from tasks.evaluation.standalone import RESULTS_FILE, Evaluated, StandaloneConfig, evaluate_model
from tests.tasks.evaluation.trained_model import Trained

REPOSITORY = Path(__file__).resolve().parents[3]
TASKS = (BenchmarkName.MMLU, BenchmarkName.PIQA, BenchmarkName.GSM8K, BenchmarkName.WIKITEXT)
QUICK = {
    "context_tokens": 128,
    "needle": {"lengths": [96, 128], "depths": [0.5], "samples_per_cell": 2, "candidates": 4},
    "speed": {"decode_tokens": 4, "repetitions": 1},
}


def _config(data: Path, **changes: object) -> StandaloneConfig:
    benchmarks = BenchmarksConfig(tasks=TASKS, data_directory=str(data), shots={BenchmarkName.GSM8K: 1})
    return StandaloneConfig.model_validate({"benchmarks": benchmarks, **QUICK, **changes})


@pytest.fixture(scope="module")
def ours(trained: Trained) -> Path:
    return trained.hugging_face.parent / "ours"


@pytest.fixture(scope="module")
def undisturbed(ours: Path, data_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return evaluate_model(ours, tmp_path_factory.mktemp("results") / "whole", _config(data_directory))


def test_everything_asked_for_is_measured(undisturbed: Evaluated) -> None:
    by_name = {result.name: result for result in undisturbed.benchmarks}
    assert list(by_name) == list(BenchmarkName)
    assert all((by_name[name].status is Status.MEASURED) == (name in TASKS) for name in BenchmarkName)
    assert by_name["hellaswag"].reason.startswith("not among the benchmarks")
    assert undisturbed.info["format"] == "fp32" and undisturbed.info["layers"] == {"mamba2": 3, "attention": 1}
    assert undisturbed.metrics["eval/decode_tokens_per_second"] > 0 and undisturbed.not_run == {}
    content = json.loads((undisturbed.directory / RESULTS_FILE).read_bytes())
    assert [row["benchmark"] for row in content["table"]][:2] == ["MMLU", "HellaSwag"]
    wikitext = content["benchmarks/wikitext"]["metrics"]
    assert content["positions"]["documents"] == 4 and wikitext["bits_per_byte"]["value"] > 0
    assert len(content["needle"]["recall"]) == 2
    names = {scores.name for scores in read_items(undisturbed.directory / ITEMS_FILE)}
    assert {"mmlu/acc", "piqa/acc_norm", "wikitext/bits_per_byte", "needle/recall"} <= names
    assert (undisturbed.directory / "plots" / "needle_recall.png").stat().st_size > 1000


def test_what_is_finished_is_not_measured_again(
    undisturbed: Evaluated, ours: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.evaluation.standalone.open_model", lambda *_: pytest.fail("opened again"))
    before = (undisturbed.directory / RESULTS_FILE).read_bytes()
    again = evaluate_model(ours, undisturbed.directory, _config(data_directory))
    assert again.metrics == undisturbed.metrics
    assert (undisturbed.directory / RESULTS_FILE).read_bytes() == before


def test_another_evaluations_directory_is_refused_unless_restarted(
    ours: Path, data_directory: Path, tmp_path: Path
) -> None:
    little = _config(data_directory, measurements=[]).model_copy(
        update={
            "benchmarks": BenchmarksConfig(tasks=(BenchmarkName.PIQA,), data_directory=str(data_directory), limit=4)
        }
    )
    first = evaluate_model(ours, tmp_path / "out", little)
    other = little.model_copy(update={"benchmarks": little.benchmarks.model_copy(update={"limit": 6})})
    with pytest.raises(ConfigurationError, match="another model, other data or other choices"):
        evaluate_model(ours, tmp_path / "out", other)
    replaced = evaluate_model(ours, tmp_path / "out", other, restart=True)
    items = [{r.name: r.items for r in one.benchmarks}["piqa"] for one in (first, replaced)]
    assert items == [4, 6]


def test_without_data_everything_is_named_as_not_run(ours: Path, tmp_path: Path) -> None:
    found = evaluate_model(ours, tmp_path / "out", _config(tmp_path / "nowhere"))
    assert all(result.status is Status.NOT_RUN and result.reason for result in found.benchmarks)
    assert set(found.not_run) == {"needle", "positions"}
    assert "wikitext" in found.not_run["needle"] and found.metrics["eval/peak_rss_mb"] > 0


def test_other_formats_give_nearly_the_same(
    undisturbed: Evaluated, ours: Path, trained: Trained, data_directory: Path, tmp_path: Path
) -> None:
    """The same model as a GGUF file in llama.cpp, and as transformers' own."""
    gguf = tmp_path / "model.gguf"
    save_gguf(load(ours), gguf, GGUFFormat.F32, tokenizer=ours.parent / "tokenizer.json")
    config = _config(data_directory, measurements=[])
    expected = {result.name: result for result in undisturbed.benchmarks}
    for path, runtime, tolerance in ((gguf, "llama.cpp", 0.02), (trained.hugging_face, "transformers", 1e-4)):
        found = evaluate_model(path, tmp_path / runtime, config, runtime=runtime)
        for result in found.benchmarks:
            for metric, measured in (result.metrics or {}).items():
                wanted = (expected[result.name].metrics or {})[metric].value
                assert measured.value == pytest.approx(wanted, rel=tolerance, abs=tolerance), (runtime, result.name)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.evaluation.benchmarks import adapter, journal
from tasks.evaluation.standalone import StandaloneConfig, evaluate_model
adapter.BATCH_TOKENS, adapter.BATCH_PROMPTS = 700, 3
model, output, config, batches, before = sys.argv[1:]
left, plain = int(batches), journal.Journal._append
def append(self, key, answers):
    global left
    left -= 1
    if left == 0 and before == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, key, answers)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal._append = append
evaluate_model(model, Path(output), StandaloneConfig.model_validate_json(config))
"""


def test_killed_at_random_it_ends_with_the_same_files(ours: Path, data_directory: Path, tmp_path: Path) -> None:
    config = _config(data_directory, measurements=["needle", "positions"]).model_dump_json()
    choose = random.Random(1)

    def run(output: str, batches: int, when: str = "after") -> int:
        command = [sys.executable, "-c", _KILLED, str(ours), str(tmp_path / output), config, str(batches), when]
        # As many threads each time: how sums are split among them shows in the last digit.
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, check=False, cwd=tmp_path, timeout=300).returncode

    assert run("whole", -1) == 0
    kills = 0
    while (status := run("killed", choose.randint(6, 20), choose.choice(["before", "after"]))) != 0:
        assert status == -signal.SIGKILL
        kills += 1
    assert kills >= 1
    for name in (RESULTS_FILE, ITEMS_FILE):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for whole in (tmp_path / "whole" / ".scratch").glob("*.jsonl"):
        lines = (tmp_path / "killed" / ".scratch" / whole.name).read_bytes().splitlines()
        assert len(lines) == len(set(lines)) == len(whole.read_bytes().splitlines())
        assert sorted(lines) == sorted(whole.read_bytes().splitlines())
