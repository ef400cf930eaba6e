"""A registered model answers in a process that has nothing of this project but what the registry stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from judged import PASSED

from infra.artifacts import Artifact
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
    model = mlflow.pyfunc.load_model(f"models:/tiny-{name}@champion")
    answers = model.predict(["Once upon a time", "abc"], params={"maximum_new_tokens": 5})
    # A model of random weights may end at once, but not after every prompt.
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers) and any(answers), answers
    assert model.predict(["abc"], params={"maximum_new_tokens": 5}) == answers[1:]
    code = pathlib.Path(sys.modules["model"].__file__)
    assert repository not in code.parents, code
    print("answered", name)
assert not [name for name in sys.modules if name.partition(".")[0] in ("tasks", "infra", "flows")]
"""


def test_every_format_answers_from_the_stored_code_alone(tracking: str, make_bundle: Make, tmp_path: Path) -> None:
    for name in FORMATS:
        bundle = make_bundle(
            "1", [PASSED], model_name=f"tiny-{name}", serve_format=name, formats=FORMATS[1:]
        )  # fmt: skip
        assert ensure_registered(bundle, tracking).is_champion
    command = [sys.executable, "-c", _LOAD, str(REPOSITORY), tracking, *FORMATS]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == [word for name in FORMATS for word in ("answered", name)], result.stderr[-3000:]
    assert result.returncode == 0, result.stderr[-3000:]
