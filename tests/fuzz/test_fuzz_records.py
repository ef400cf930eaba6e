"""A short coverage-guided run of the record readers; longer ones are started by hand."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).parent


def seeds() -> list[bytes]:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"]}), parquet)
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>text"
    warc = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n%s" % (len(http), http)
    return [
        b'\x00{"text": "one", "b": "two"}\n{"text": 1}\n',
        b'\x01text,b\n"one\nmore",two\n',
        b"\x04<html><p>text<script>",
        b"\x05" + parquet.getvalue(),
        b"\x06" + warc,
    ]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (dev extra, Linux)")
def test_no_bytes_found_by_coverage_make_a_reader_raise(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    command = [sys.executable, str(HERE / "fuzz_records.py"), "-runs=4000", "-max_len=2000", "-seed=1"]
    # The peak it would look at is inherited from this process, which may be large: single allocations are bounded.
    command += ["-rss_limit_mb=0", "-malloc_limit_mb=1024", "-timeout=60", f"-artifact_prefix={tmp_path}/", str(corpus)]
    root = HERE.parent.parent
    run = subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Done 4000 runs" in run.stderr
