"""llama.cpp's own quantizer: the reference that our GGUF writer is compared with."""

from __future__ import annotations

import ctypes
from pathlib import Path

from gguf import LlamaFileType

from model.errors import ModelError
from model.llama_cpp.library import Build, open_library


def quantize_file(source: Path, target: Path, file_type: LlamaFileType, threads: int = 1) -> None:
    """Convert an f32 or f16 GGUF file with `llama_model_quantize`, which only the patched build links.

    Raises ModelError when the build is missing or the library refuses the file.
    """
    library = open_library(Build.PATCHED)
    if not library.has_quantizer:
        raise ModelError(f"'{library.path}' was linked without the quantizer: run `make llama` again")
    parameters = library.functions.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = int(file_type), threads
    library.forget_messages()
    failed = library.functions.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if failed:
        raise ModelError(f"llama.cpp did not quantize '{source}': {library.complaint()}")
