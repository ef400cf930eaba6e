"""Records: what a source yields. The formats they are read from are in `tasks.download.formats`."""

from tasks.download.formats import (
    FieldChoice,
    FilePlace,
    ReadLimits,
    Record,
    is_readable,
    parse_json_line,
    read_file,
    read_stream,
)

__all__ = [
    "FieldChoice",
    "FilePlace",
    "ReadLimits",
    "Record",
    "is_readable",
    "parse_json_line",
    "read_file",
    "read_stream",
]
