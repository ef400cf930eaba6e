"""ggml's own quantization kernels, called through ctypes from the shared library in the `xllamacpp` wheel.

The `gguf` library can only *de*quantize K-quants; the kernels that choose scales and minima well
are C. The wheel exports `ggml_quantize_chunk`, so a real Q4_K needs no compiler on the user's
machine. Nothing else of the runtime is started.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from model.errors import ConfigurationError
from model.llama_cpp.library import Build, library_path

#: A thread is worth starting for this many weights and more.
_WEIGHTS_PER_THREAD = 1 << 16


def block_size(kind: GGMLQuantizationType) -> int:
    """How many weights of a row share one block: rows must be multiples of it (256 for K-quants)."""
    return int(GGML_QUANT_SIZES[kind][0])


def quantize(
    weights: npt.NDArray[np.float32], kind: GGMLQuantizationType, threads: int | None = None
) -> npt.NDArray[np.uint8]:
    """Quantize a matrix row by row; the result is the same for any number of threads.

    weights: [rows, columns] with columns a multiple of `block_size(kind)`. Returns the packed rows,
    [rows, bytes a row]. Raises ConfigurationError when the columns do not fit
    the blocks, ModelError when the library is missing.
    """
    rows, columns = weights.shape
    if columns % block_size(kind):
        raise ConfigurationError(
            f"a row of {columns} weights cannot be stored as {kind.name}: make the row a multiple of "
            f"{block_size(kind)}, or choose f16"
        )
    source = np.ascontiguousarray(weights, np.float32)
    packed = np.empty(quant_shape_to_byte_shape(source.shape, kind), np.uint8)
    workers = min(threads or os.cpu_count() or 1, rows, max(1, weights.size // _WEIGHTS_PER_THREAD))
    function = _quantize_chunk()

    def quantize_rows(first: int, last: int) -> int:
        # ggml takes the offset of the first weight and finds the output row itself.
        return int(
            function(kind.value, source.ctypes.data, packed.ctypes.data, first * columns, last - first, columns, None)
        )

    bounds = np.linspace(0, rows, workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:  # ctypes releases the GIL for the time of the call
        written = sum(pool.map(quantize_rows, bounds[:-1], bounds[1:]))
    assert written == packed.nbytes, f"ggml wrote {written} bytes of {packed.nbytes}"
    return packed


@cache
def _quantize_chunk() -> ctypes._NamedFuncPointer:
    """`size_t ggml_quantize_chunk(type, src, dst, start, nrows, n_per_row, imatrix)`."""
    function = ctypes.CDLL(str(library_path(Build.STOCK))).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return function
