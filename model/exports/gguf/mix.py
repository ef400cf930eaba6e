"""Which tensor of a GGUF file gets which storage type: llama.cpp's own choice for each file format.

Q4_K_M is a mix. Its rules are those of `llama_tensor_get_type` in llama.cpp: the output matrix
(the token embedding when it serves as output too) is Q6_K; `attn_v` (or `attn_qkv`) and `ffn_down` are Q6_K in the
first and last eighth of their layers and in every third layer between; all other matrices are
Q4_K. Norms, convolutions and decays are small and touchy: they stay F32 in every format, as do
tensors that are not called `.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from gguf import GGMLQuantizationType, LlamaFileType

from model.errors import ConfigurationError
from model.exports.gguf.ggml import block_size


class GGUFFormat(StrEnum):
    """The file formats we write."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_K_M = "q4_k_m"

    @property
    def file_type(self) -> LlamaFileType:
        """The `general.file_type` llama.cpp shows for it."""
        return _FILE_TYPES[self]


_FILE_TYPES = {
    GGUFFormat.F32: LlamaFileType.ALL_F32,
    GGUFFormat.F16: LlamaFileType.MOSTLY_F16,
    GGUFFormat.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    GGUFFormat.Q4_K_M: LlamaFileType.MOSTLY_Q4_K_M,
}
_MATRIX_TYPES = {
    GGUFFormat.F32: GGMLQuantizationType.F32,
    GGUFFormat.F16: GGMLQuantizationType.F16,
    GGUFFormat.Q8_0: GGMLQuantizationType.Q8_0,
    GGUFFormat.Q4_K_M: GGMLQuantizationType.Q4_K,
}
#: Parts of the names of tensors that are never quantized.
_KEPT_EXACT = ("norm", "conv1d", "time_mix_decay")
#: Names of the two roles that get more bits in some layers; a joined query, key and value counts as values.
_VALUES, _FEED_FORWARD_ENDS = ("attn_v.weight", "attn_qkv.weight"), ("ffn_down.weight",)


def choose_types(shapes: Mapping[str, Sequence[int]], file_format: GGUFFormat) -> dict[str, GGMLQuantizationType]:
    """Storage type of every tensor, by GGUF name.

    shapes: name -> shape, a matrix as [rows, columns], in the order of the file. Raises ConfigurationError
    naming the first tensor whose rows do not fit its type's blocks.
    """
    wanted = {name: _type_of(name, shape, file_format) for name, shape in shapes.items()}
    if file_format is GGUFFormat.Q4_K_M:
        head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
        sensitive = [head, *_with_more_bits(shapes, _VALUES), *_with_more_bits(shapes, _FEED_FORWARD_ENDS)]
        wanted.update(dict.fromkeys(sensitive, GGMLQuantizationType.Q6_K))
    for name, kind in wanted.items():
        _check_rows(name, shapes[name], kind, file_format)
    return wanted


def _type_of(name: str, shape: Sequence[int], file_format: GGUFFormat) -> GGMLQuantizationType:
    if len(shape) != 2 or not name.endswith(".weight") or any(part in name for part in _KEPT_EXACT):
        return GGMLQuantizationType.F32
    return _MATRIX_TYPES[file_format]


def _with_more_bits(shapes: Mapping[str, Sequence[int]], suffixes: tuple[str, ...]) -> list[str]:
    """The layers' tensors of one role that llama.cpp's `use_more_bits` picks."""
    names = [name for name in shapes if name.endswith(suffixes)]
    eighth, count = len(names) // 8, len(names)
    return [
        name
        for index, name in enumerate(names)
        if index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2
    ]


def _check_rows(name: str, shape: Sequence[int], kind: GGMLQuantizationType, file_format: GGUFFormat) -> None:
    if shape[-1] % block_size(kind):
        raise ConfigurationError(
            f"tensor '{name}' has rows of {shape[-1]} weights, but {kind.name} in the {file_format} format needs "
            f"a multiple of {block_size(kind)}: train with width and feed_forward_width multiples of "
            f"{block_size(kind)}, or export as f16"
        )
