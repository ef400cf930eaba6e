from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "model.md"


def test_the_documented_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## Generation and the cache\n", 1)[1]
    match = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert match is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(match[1], str(DOCUMENT), "exec"), names)
    assert [len(sequence.tokens) for sequence in names["details"]] == [20, 5]  # type: ignore[attr-defined]
    assert len(capsys.readouterr().out.splitlines()) == 40
    assert names["cache"].tokens(0)[:3] == [72, 101, 108]  # type: ignore[attr-defined]
