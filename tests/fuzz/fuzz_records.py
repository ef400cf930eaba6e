"""Coverage-guided fuzzing of the record readers (atheris): no bytes may make one raise or yield text without UTF-8.

python tests/fuzz/fuzz_records.py -runs=100000 [corpus directory]
"""

from __future__ import annotations

import io
import sys

import atheris

with atheris.instrument_imports(include=["tasks.download.formats"]):
    from tasks.download.formats import ReadLimits, read_stream
    from tasks.download.formats.record import FieldChoice
    from tasks.download.formats.web_archive import read_web_archive  # noqa: F401 - instrumented before its first use

NAMES = (
    "x.jsonl",
    "x.csv",
    "x.tsv",
    "x.txt",
    "x.html",
    "x.parquet",
    "x.warc",
    "x.jsonl.gz",
    "x.jsonl.zst",
    "x.jsonl.bz2",
    "x.txt.xz",
    "x.warc.gz",
)
LIMITS = ReadLimits(line_bytes=300, document_bytes=2_000, ratio_matters_bytes=50_000, unpacked_bytes=1_000_000)
CHOICES = (FieldChoice(), FieldChoice(text_fields=("*",)), FieldChoice(text_fields=("text", "b"), distinct=True))


def read_any(data: bytes) -> None:
    """The first byte chooses format and fields, the rest is the file."""
    if not data:
        return
    name, fields = NAMES[data[0] % len(NAMES)], CHOICES[data[0] // len(NAMES) % len(CHOICES)]
    for record in read_stream(io.BytesIO(data[1:]), name, fields, LIMITS):
        record.text.encode()
        record.origin.encode()


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_any)
    atheris.Fuzz()
