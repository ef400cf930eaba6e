"""GGUF, the deployment format: our writer and reader for architecture `hgrn2`.

Stock llama.cpp has no such architecture: the file runs in llama.cpp with this project's patch, and
in this project's own reader.

Public surface: `save_gguf` with `GGUFFormat` (f32, f16, q8_0, q4_k_m), `tensor_types` to check a
model first, `load_gguf`, `read_tokenizer_json`, and `quantize`, ggml's kernels over rows on all cores.
"""

from model.exports.gguf.ggml import quantize
from model.exports.gguf.mix import GGUFFormat
from model.exports.gguf.reader import load_gguf, read_tokenizer_json
from model.exports.gguf.writer import save_gguf, tensor_types

__all__ = ["GGUFFormat", "load_gguf", "quantize", "read_tokenizer_json", "save_gguf", "tensor_types"]
