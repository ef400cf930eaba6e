"""One call for every format a trained model can be written in."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

from model.checkpoints import load
from model.errors import CheckpointError
from model.exports.gguf import GGUFFormat, save_gguf
from model.exports.hugging_face import save_hugging_face
from model.quantization import save_int4, save_int8
from model.tokenizer_files import SEPARATORS, TOKENIZER_FILE, find_tokenizer, read_tokenizer, separator_of


class ExportFormat(StrEnum):
    """What a model can be exported to; the GGUF formats are files, the others directories."""

    HUGGING_FACE = "hugging-face"
    ONNX = "onnx"
    INT8 = "int8"
    INT4 = "int4"
    GGUF_F32 = "gguf-f32"
    GGUF_F16 = "gguf-f16"
    GGUF_Q8_0 = "gguf-q8_0"
    GGUF_Q4_K_M = "gguf-q4_k_m"


def export(
    source: str | Path, form: ExportFormat | str, output: str | Path, tokenizer: str | Path | None = None
) -> Path:
    """Write the checkpoint directory `source` (ours or a Hugging Face layout) to `output` as `form`; returns `output`.

    tokenizer: a `tokenizer.json`; by default the one beside the weights or one directory up, if there is one.
    Raises CheckpointError when `output` exists or `source` cannot be read, ConfigurationError when the form cannot
    hold the model.
    """
    source, output, form = Path(source), Path(output), ExportFormat(form)
    if output.exists():
        raise CheckpointError(f"'{output}' exists: name another output, or remove it first")
    model = load(source)
    vocabulary = Path(tokenizer) if tokenizer is not None else find_tokenizer(source)
    separator = None if vocabulary is None else separator_of(read_tokenizer(vocabulary))
    if form is ExportFormat.HUGGING_FACE:
        end_of_text = SEPARATORS[0] if separator is None else separator.name
        save_hugging_face(model, output, vocabulary, end_of_text=end_of_text)
    elif form is ExportFormat.ONNX:
        # Imported here because the exporter takes seconds to import, and the other formats do not need it.
        from model.exports.onnx import save_onnx

        save_onnx(model, output, vocabulary)
    elif form in (ExportFormat.INT8, ExportFormat.INT4):
        (save_int8 if form is ExportFormat.INT8 else save_int4)(model, output)
        if vocabulary is not None:
            shutil.copyfile(vocabulary, output / TOKENIZER_FILE)
    else:
        end = None if separator is None else separator.token
        save_gguf(model, output, GGUFFormat(form.removeprefix("gguf-")), tokenizer=vocabulary, end_of_text=end)
    return output
