"""llama.cpp as a runtime: two builds of one version behind one small binding.

The `xllamacpp` wheel carries the stock library; `python -m model.llama_cpp.build` (`make llama`)
builds the same version with this project's patch, which adds the `hgrn2` architecture.

Public surface: `Build` and `available_builds`, `LlamaModel` (logits, generation, tokenizing),
`KeyValueType`, and `quantize_file`, llama.cpp's own quantizer.
"""

from model.llama_cpp.library import Build, available_builds, build_for
from model.llama_cpp.quantizer import quantize_file
from model.llama_cpp.runtime import KeyValueType, LlamaModel, LlamaSession, Performance, Step

__all__ = [
    "Build",
    "KeyValueType",
    "LlamaModel",
    "LlamaSession",
    "Performance",
    "Step",
    "available_builds",
    "build_for",
    "quantize_file",
]
