"""The stored formats, in one table: where each lies in a quantized artifact, and in a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from infra.artifacts import Artifact
from infra.errors import ConfigurationError

FLOAT32 = "fp32"
#: The bundle's directory of what was measured.
EVALUATION_DIRECTORY = "evaluation"


@dataclass(frozen=True)
class StoredFormat:
    """`path` is a directory, which ends in `/`, or one file; `requirements` are what opening it needs besides torch."""

    path: str
    content: str
    requirements: tuple[str, ...] = ()

    @property
    def opened(self) -> str:
        """What `open_model` is given."""
        return self.path.removesuffix("/")

    @property
    def top(self) -> str:
        """The bundle's directory it is in."""
        return self.path.partition("/")[0]

    @property
    def is_gguf(self) -> bool:
        return self.path.endswith(".gguf")

    def holds(self, path: str) -> bool:
        """Whether a file of the artifact belongs to this format."""
        return path.startswith(self.path) if self.path.endswith("/") else path == self.path


_GGUF = {
    name: StoredFormat(f"gguf/model-{name}.gguf", f"GGUF, {content}", ("gguf", "xllamacpp"))
    for name, content in {
        "f32": "32-bit floats", "f16": "16-bit floats", "q8_0": "8 bits a weight and scales",
        "q4_k_m": "4 to 6 bits a weight and scales",
    }.items()
}  # fmt: skip

#: Format name -> its place; the names are those of `quantization.formats`.
FORMATS = {
    FLOAT32: StoredFormat("model/", "32-bit floats (safetensors) and the model's configuration"),
    "int8": StoredFormat("int8/", "8-bit integers (safetensors), for torch"),
    "int4": StoredFormat("int4/", "4-bit integers in groups (safetensors), for torch"),
    "onnx": StoredFormat("onnx/", "ONNX graphs, 32-bit floats", ("onnxruntime",)),
    "onnx-int8": StoredFormat("onnx-int8/", "ONNX graphs, 8-bit integers", ("onnxruntime",)),
    **_GGUF,
}


def stored_format(name: str) -> StoredFormat:
    """The place of a format; raises ConfigurationError listing the known ones."""
    if name not in FORMATS:
        raise ConfigurationError(f"'{name}' is no stored format.", f"choose one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


def format_files(artifact: Artifact, name: str) -> list[str]:
    """Paths of one format's files within a quantized artifact, or a bundle."""
    chosen = stored_format(name)
    return [entry.path for entry in artifact.manifest.files if chosen.holds(entry.path)]
