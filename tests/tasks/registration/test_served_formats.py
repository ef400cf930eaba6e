"""A registered model answers in a process that has nothing of this project but what the registry stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from judged import PASSED

from infra.artifacts import Artifact, ArtifactStore, build_stage
from tasks.registration import STAGE, PartialTraining, RegistrationConfig
from tasks.registration.partial import PartialStage
from tasks.registration.registry import ensure_registered

Make = Callable[..., Artifact]
REPOSITORY = Path(__file__).parents[3]
FORMATS = ("fp32", "int8", "int4", "q4_k_m")

#: An installation for development finds the checkout through sys.path or through a finder of its own: both go.
_LOAD = """
import importlib.util, pathlib, sys
repository = pathlib.Path(sys.argv[1])
sys.path = [entry for entry in sys.path if entry and pathlib.Path(entry).resolve() != repository]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in str(getattr(finder, "__module__", ""))]
for name in ("model", "tasks", "infra", "flows"):
    assert importlib.util.find_spec(name) is None, name
import mlflow
mlflow.set_tracking_uri(sys.argv[2])
for name in sys.argv[3:]:
    alias = "partial" if name == "partial" else "champion"
    model = mlflow.pyfunc.load_model(f"models:/tiny-{name}@{alias}")
    answers = model.predict(["Once upon a time", "abc"], params={"maximum_new_tokens": 5})
    # A model of random weights may end at once, but not after every prompt.
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers) and any(answers), answers
    assert model.predict(["abc"], params={"maximum_new_tokens": 5}) == answers[1:]
    code = pathlib.Path(sys.modules["model"].__file__)
    assert repository not in code.parents, code
    print("answered", name)
assert not [name for name in sys.modules if name.partition(".")[0] in ("tasks", "infra", "flows")]
"""


@pytest.fixture
def partial_bundle(store: ArtifactStore, chain: dict[str, Artifact]) -> Artifact:
    """Of a model whose training was stopped early: neither evaluated nor quantized."""
    stage = PartialStage(name="first", steps=1, planned_steps=2, tokens=100, planned_tokens=200)
    settings = RegistrationConfig(
        model_name="tiny-partial", partial=PartialTraining(stages=(stage,), reason="no money")
    )
    return build_stage(STAGE, settings, {name: chain[name] for name in ("checkpoint", "tokens")}, store).artifact


def test_every_format_answers_from_the_stored_code_alone(
    tracking: str, make_bundle: Make, partial_bundle: Artifact, tmp_path: Path
) -> None:
    for name in FORMATS:
        bundle = make_bundle(
            "1", [PASSED], model_name=f"tiny-{name}", serve_format=name, formats=FORMATS[1:]
        )  # fmt: skip
        assert ensure_registered(bundle, tracking).is_champion
    assert ensure_registered(partial_bundle, tracking).aliases == ["partial"]
    names = (*FORMATS, "partial")
    command = [sys.executable, "-c", _LOAD, str(REPOSITORY), tracking, *names]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == [word for name in names for word in ("answered", name)], result.stderr[-3000:]
    assert result.returncode == 0, result.stderr[-3000:]
