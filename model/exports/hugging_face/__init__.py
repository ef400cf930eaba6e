"""Models as other libraries' directories: transformers' Granite and Qwen3.5, flash-linear-attention's hybrids.

Everything written gives the same results in that library; what would not is refused. Neither library is needed.

Public surface: `save_hugging_face` writes a model, `load_hugging_face` opens a directory (also one that
`save_pretrained` wrote), `hugging_face_config` reads its configuration only, `is_hugging_face` tells such a
directory from our own checkpoints, `LAYOUTS` lists what is known.
"""

from model.exports.hugging_face.layouts import LAYOUTS
from model.exports.hugging_face.reading import hugging_face_config, is_hugging_face, load_hugging_face
from model.exports.hugging_face.writing import save_hugging_face

__all__ = ["LAYOUTS", "hugging_face_config", "is_hugging_face", "load_hugging_face", "save_hugging_face"]
