"""The adapter gives the harness what its own `hf` backend gives it, on the same model exported to transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.interface import Completion, Continuation, ContinuationScore, ModelInterface, open_model
from tasks.evaluation.benchmarks import BENCHMARKS, BenchmarkName, BenchmarksConfig
from tasks.evaluation.benchmarks.adapter import InterfaceLM
from tasks.evaluation.benchmarks.data import read_data, shots_of
from tasks.evaluation.benchmarks.harness import build_tasks, run_tasks
from tasks.evaluation.benchmarks.journal import Journal
from tests.tasks.evaluation.trained_model import SHARED, Trained

HARNESS = [name for name in BenchmarkName if name is not BenchmarkName.HUMANEVAL]


@pytest.fixture(scope="module")
def reference(trained: Trained) -> object:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(trained.hugging_face), device="cpu", dtype="float32", batch_size=8, max_length=512)


def _samples(model: object, name: BenchmarkName, config: BenchmarksConfig) -> list[dict[str, object]]:
    benchmark = BENCHMARKS[name]
    shots = shots_of(config, benchmark)
    tasks = build_tasks(benchmark, read_data(config, benchmark), shots, config.seed)
    return [sample.values for sample in run_tasks(model, tasks, config.limit)]


def _compare(ours: list[dict[str, object]], theirs: list[dict[str, object]]) -> None:
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for metric, value in mine.items():
            assert value == pytest.approx(other[metric], rel=1e-4, abs=1e-4), metric


@pytest.mark.parametrize("name", HARNESS)
def test_agrees_with_the_harness_own_backend(
    trained: Trained, reference: object, data_directory: Path, name: BenchmarkName
) -> None:
    # Two examples before a question, so that prompts of GSM8K fit the small model's context without being cut.
    config = BenchmarksConfig(data_directory=str(data_directory), shots={BenchmarkName.GSM8K: 2})
    _compare(_samples(InterfaceLM(trained.model), name, config), _samples(reference, name, config))


@pytest.mark.parametrize("name", ["mmlu", "piqa", "gsm8k", "wikitext"])
def test_agrees_on_real_items(trained: Trained, reference: object, name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the benchmarks' real items are not here: ../shared/eval-data")
    limit = 2 if name in ("wikitext", "gsm8k") else 24
    config = BenchmarksConfig(data_directory=str(SHARED), limit=limit)
    chosen = BenchmarkName(name)
    _compare(_samples(InterfaceLM(trained.model), chosen, config), _samples(reference, chosen, config))


def test_requests_agree_one_by_one(trained: Trained, reference: object) -> None:
    """Likelihoods and texts themselves, cut contexts and empty ones among them."""
    from lm_eval.api.instance import Instance

    pairs = [
        ("Water boils", " at 100"),
        ("", "Water boils"),
        ("x " * 600, " y"),
        ("a ", "b"),
        ("Water boils", " at 90"),
    ]
    asked = [Instance("loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    ours, theirs = InterfaceLM(trained.model).loglikelihood(asked), reference.loglikelihood(asked)  # type: ignore[attr-defined]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3) and mine[1] == other[1]
    texts = [Instance("loglikelihood_rolling", doc={}, arguments=("Water boils at 100 degrees. " * 60,), idx=0)]
    assert InterfaceLM(trained.model).loglikelihood_rolling(texts) == pytest.approx(
        reference.loglikelihood_rolling(texts), rel=1e-5  # type: ignore[attr-defined]
    )  # fmt: skip
    arguments = {"until": ["\n", "}"], "max_gen_toks": 24, "do_sample": False}
    prompts = ["Water", "Question: Ann has 3", "{", "z " * 700]
    wanted = [Instance("generate_until", doc={}, arguments=(prompt, arguments), idx=0) for prompt in prompts]
    assert InterfaceLM(trained.model).generate_until(wanted) == reference.generate_until(wanted)  # type: ignore[attr-defined]


class _Counting(ModelInterface):
    """Passes everything on, and counts what is asked; dies after some calls."""

    def __init__(self, model: ModelInterface, dies_after: int | None = None) -> None:
        self._model, self._left = model, dies_after
        self.asked: list[Continuation] = []
        self.written: list[object] = []

    def _live(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt

    def score_continuations(self, continuations: object) -> list[ContinuationScore]:
        self._live()
        self.asked += continuations  # type: ignore[operator]
        return self._model.score_continuations(continuations)  # type: ignore[arg-type]

    def generate(self, prompts: object, settings: object = None) -> list[Completion]:  # type: ignore[override]
        self._live()
        self.written += prompts  # type: ignore[operator]
        return self._model.generate(prompts, settings)  # type: ignore[arg-type]

    @property
    def separator(self) -> int:
        return self._model.separator

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: object) -> str:
        raise NotImplementedError

    def info(self) -> object:  # type: ignore[override]
        return self._model.info()

    stream_batch = score = logits = health = decode  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["mmlu", "piqa", "gsm8k", "wikitext"])
def test_killed_at_any_batch_nothing_is_asked_twice(
    trained: Trained, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("tasks.evaluation.benchmarks.adapter.BATCH_TOKENS", 400)
    monkeypatch.setattr("tasks.evaluation.benchmarks.adapter.BATCH_PROMPTS", 3)
    config = BenchmarksConfig(data_directory=str(data_directory), shots={BenchmarkName.GSM8K: 1})
    undisturbed = _Counting(trained.model)
    expected = _samples(InterfaceLM(undisturbed, Journal(tmp_path / "whole.jsonl")), BenchmarkName(name), config)
    asked: list[str] = []
    path = tmp_path / "journal.jsonl"
    for _ in range(100):
        dying = _Counting(trained.model, dies_after=1)
        journal = Journal(path)
        try:
            found = _samples(InterfaceLM(dying, journal), BenchmarkName(name), config)
            break
        except KeyboardInterrupt:
            path.write_bytes(path.read_bytes() + b'{"batch": "torn')  # the kill tore the next line
        finally:
            asked += [str(one) for one in [*dying.asked, *dying.written]]
    assert found == expected
    assert len(asked) == len(set(asked)) == len(undisturbed.asked) + len(undisturbed.written) > 3
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_documents_are_opened_when_asked(trained: Trained) -> None:
    from lm_eval.api.instance import Instance

    counting = _Counting(trained.model)
    request = Instance("loglikelihood", doc={}, arguments=("Water boils", " at"), idx=0)
    InterfaceLM(counting, open_documents=True).loglikelihood([request])
    InterfaceLM(counting).loglikelihood([request])
    opened, plain = counting.asked
    assert list(opened.context) == [trained.model.separator, *plain.context]


def test_exported_model_is_the_same_through_the_interface(trained: Trained) -> None:
    """Guards the comparison itself: the export that the reference reads is this model."""
    ids = trained.model.encode("Water boils at 100 degrees.")
    (ours,) = trained.model.score_tokens([ids])
    (theirs,) = open_model(trained.hugging_face).score_tokens([ids])
    assert ours == pytest.approx(theirs, abs=1e-4)
