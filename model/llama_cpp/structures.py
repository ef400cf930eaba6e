"""The structures and functions of llama.cpp's C interface (`include/llama.h`) that we use.

Structures are passed by value, so a wrong layout reads and writes the wrong bytes without a word.
Every field is therefore listed with the default the library must report for it: a build whose
defaults differ is refused before anything else is called.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

#: What `llama_version()` and `ggml_version()` say in the builds these structures were written for.
KNOWN_VERSIONS = {("0.6.0-dev", "0.26.0")}

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)


class ModelParameters(ctypes.Structure):
    """`llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(ctypes.Structure):
    """`llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class QuantizeParameters(ctypes.Structure):
    """`llama_model_quantize_params`."""

    _fields_ = (
        ("nthread", c_int32),
        ("ftype", c_int32),
        ("output_tensor_type", c_int32),
        ("token_embedding_type", c_int32),
        ("allow_requantize", c_bool),
        ("quantize_output_tensor", c_bool),
        ("only_copy", c_bool),
        ("pure", c_bool),
        ("keep_split", c_bool),
        ("dry_run", c_bool),
        ("imatrix", c_void_p),
        ("kv_overrides", c_void_p),
        ("tt_overrides", c_void_p),
        ("prune_layers", c_void_p),
        ("max_buf_size", c_size_t),
    )


class Batch(ctypes.Structure):
    """`llama_batch`: positions and sequences left out are counted by the library itself."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", ctypes.POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", ctypes.POINTER(c_int8)),
    )


#: Fields that are not zero (or null, or false) by default; all others must be.
NON_ZERO_DEFAULTS: dict[type[ctypes.Structure], dict[str, float | bool]] = {
    ModelParameters: {
        "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "use_extra_bufts": True,
    },
    ContextParameters: {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1,
        "n_threads": 4, "n_threads_batch": 4, "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1,
        "flash_attn_type": -1, "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0,
        "yarn_beta_slow": -1.0, "defrag_thold": -1.0, "type_k": 1, "type_v": 1, "offload_kqv": True,
        "no_perf": True, "op_offload": True, "swa_full": True,
    },
    QuantizeParameters: {
        "ftype": 7, "output_tensor_type": 43, "token_embedding_type": 43, "quantize_output_tensor": True,
        "max_buf_size": 8 << 30,
    },
}  # fmt: skip

_POINTER = c_void_p
#: Result and argument types by name.
Signatures = dict[str, tuple[Any, tuple[Any, ...]]]
FUNCTIONS: Signatures = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (_POINTER, (c_char_p, ModelParameters)),
    "llama_model_free": (None, (_POINTER,)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_model_desc": (c_int32, (_POINTER, ctypes.c_char_p, c_size_t)),
    "llama_model_meta_val_str": (c_int32, (_POINTER, c_char_p, ctypes.c_char_p, c_size_t)),
    "llama_model_n_ctx_train": (c_int32, (_POINTER,)),
    "llama_model_n_layer": (c_int32, (_POINTER,)),
    "llama_model_n_params": (c_uint64, (_POINTER,)),
    "llama_model_size": (c_uint64, (_POINTER,)),
    "llama_init_from_model": (_POINTER, (_POINTER, ContextParameters)),
    "llama_free": (None, (_POINTER,)),
    "llama_n_ctx": (c_uint32, (_POINTER,)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_memory_clear": (None, (_POINTER, c_bool)),
    "llama_state_seq_get_size": (c_size_t, (_POINTER, c_int32)),
    "llama_state_seq_get_data": (c_size_t, (_POINTER, c_char_p, c_size_t, c_int32)),
    "llama_state_seq_set_data": (c_size_t, (_POINTER, c_char_p, c_size_t, c_int32)),
    "llama_decode": (c_int32, (_POINTER, Batch)),
    "llama_get_logits": (ctypes.POINTER(c_float), (_POINTER,)),
    "llama_vocab_type": (c_int32, (_POINTER,)),
    "llama_vocab_n_tokens": (c_int32, (_POINTER,)),
    "llama_vocab_bos": (c_int32, (_POINTER,)),
    "llama_vocab_eos": (c_int32, (_POINTER,)),
    "llama_vocab_is_eog": (c_bool, (_POINTER, c_int32)),
    "llama_vocab_get_text": (c_char_p, (_POINTER, c_int32)),
    "llama_tokenize": (c_int32, (_POINTER, c_char_p, c_int32, ctypes.POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (_POINTER, c_int32, ctypes.c_char_p, c_int32, c_int32, c_bool)),
}

#: Only in a library that links llama.cpp's quantizer; the wheel's does not.
QUANTIZER_FUNCTIONS: Signatures = {
    "llama_model_quantize_default_params": (QuantizeParameters, ()),
    "llama_model_quantize": (c_uint32, (c_char_p, c_char_p, ctypes.POINTER(QuantizeParameters))),
}


def unexpected_defaults(parameters: ctypes.Structure) -> list[str]:
    """Names of the fields whose value is not the documented default: a sign of another layout."""
    expected = NON_ZERO_DEFAULTS[type(parameters)]
    names = [str(field[0]) for field in parameters._fields_]
    return [name for name in names if (getattr(parameters, name) or 0) != expected.get(name, 0)]
