"""GGUF, the deployment format: writer and reader, one module an architecture.

Mamba-2 hybrids become `granitehybrid` and Gated DeltaNet hybrids `qwen35`, which stock llama.cpp runs;
HGRN-2 hybrids become `hgrn2`, which needs this project's patch to llama.cpp (`make llama`). Our own
reader reads all three.

Public surface: `save_gguf` with `GGUFFormat` (f32, f16, q8_0, q4_k_m), `tensor_types` to check a
model first, `load_gguf`, `read_tokenizer_json`, `read_architecture`, `read_config`, and `quantize`,
ggml's kernels over rows on all cores.
"""

from model.exports.gguf.ggml import quantize
from model.exports.gguf.mix import GGUFFormat
from model.exports.gguf.reader import load_gguf, read_architecture, read_config, read_tokenizer_json
from model.exports.gguf.writer import save_gguf, tensor_types

__all__ = [
    "GGUFFormat",
    "load_gguf",
    "quantize",
    "read_architecture",
    "read_config",
    "read_tokenizer_json",
    "save_gguf",
    "tensor_types",
]
