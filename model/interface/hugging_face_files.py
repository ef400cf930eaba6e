"""Directories in Hugging Face form, here or on the Hub, that transformers may open: safetensors, no foreign code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from model.checkpoint_files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from model.errors import CheckpointError

HUB_PREFIX = "hf://"
#: Files that weights of other tools come in; opening one may run code that it holds.
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "*.tiktoken", "tekken.json",
)  # fmt: skip
_HUB_FILES = (
    "*.safetensors", INDEX_FILE, CONFIG_FILE, "generation_config.json", "tokenizer_config.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", *_TOKENIZER_FILES,
)  # fmt: skip
#: Copies of the same weights in other layouts.
_HUB_COPIES = ("*/*", "consolidated*", "*.fp16.safetensors")


def hub_directory(address: str) -> Path:
    """The directory of `hf://organisation/name[@revision]` in the Hub's cache, downloaded where it is not there.

    Code and pickles are never downloaded. Raises CheckpointError for a malformed address, for what the Hub does not
    give out, and for what the cache does not hold when `HF_HUB_OFFLINE` is 1.
    """
    match = re.fullmatch(r"hf:/+([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", address)
    if match is None:
        raise CheckpointError(
            f"'{address}' is no model on the Hub: give hf://organisation/name or hf://organisation/name@revision"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = match.groups()
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(_HUB_FILES), ignore_patterns=list(_HUB_COPIES)
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"'{address}' is not in the cache of the Hub, and the Hub is out of reach: set HF_HUB_OFFLINE=0 to "
            "download it, or give a local directory"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"'{address}' cannot be downloaded ({_first_line(error)}): check its name") from error
    return Path(found)


def refuse_pickles(directory: Path) -> None:
    """Raises CheckpointError naming the file where a directory's weights are pickles."""
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"'{directory / pickles[0]}' is a pickle, which may run any code when it is opened: convert it to "
            f"{WEIGHTS_FILE} where you trust it (save_pretrained of the loaded model writes safetensors)"
        )


def knows(directory: Path) -> bool:
    """Whether transformers has a causal language model for a directory's `config.json`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config_fields(directory).get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds the vocabulary of any tokenizer of transformers."""
    return any(next(directory.glob(pattern), None) for pattern in _TOKENIZER_FILES)


def weights_files(directory: Path) -> list[Path]:
    """The safetensors files that make up the model."""
    index = directory / INDEX_FILE
    if not index.is_file():
        return [directory / WEIGHTS_FILE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"'{index}' cannot be read ({error!r}): restore it") from error
    return [directory / name for name in names]


def load_transformers(directory: Path, device: str = "cpu") -> Any:
    """The `PreTrainedModel` of a directory in evaluation mode: float32 on a CPU, as stored elsewhere.

    Nothing is downloaded and no code of the directory runs. Raises CheckpointError when transformers has no class of
    its own for it, or the weights are missing, damaged or of another model.
    """
    _refuse_foreign_code(directory)
    for file in weights_files(directory):
        if not file.is_file():
            raise CheckpointError(f"'{file}' is missing: download or save the model again")
    import torch
    from safetensors import SafetensorError

    transformers = quiet_transformers()
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32 if torch.device(device).type == "cpu" else "auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot open '{directory}' ({_first_line(error)}): "
            "restore its files or convert it with a version that can"
        ) from error
    # What is missing would be random numbers.
    absent = sorted(map(str, report["missing_keys"])) + sorted(str(key) for key, *_ in report["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"the weights in '{directory}' do not fit {CONFIG_FILE}: {len(absent)} missing or of another shape, "
            f"{absent[0]} first; download or save the model again"
        )
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> Any:
    """The directory's tokenizer as transformers opens it. Raises CheckpointError when it cannot."""
    transformers = quiet_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    # The library raises bare Exception for whatever is wrong with a tokenizer.json.
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer in '{directory}' cannot be opened ({_first_line(error)}): restore its files, or give "
            "tokenizer_path"
        ) from error


def quiet_transformers() -> Any:
    """The library, with errors alone in its log and no progress bars. Importing it takes a second."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _refuse_foreign_code(directory: Path) -> None:
    if knows(directory):
        return
    values = config_fields(directory)
    if "auto_map" in values:
        raise CheckpointError(
            f"'{directory / CONFIG_FILE}' asks for code of its own (auto_map), which is never run: convert the model "
            "to an architecture that transformers has"
        )
    raise CheckpointError(
        f"'{directory / CONFIG_FILE}': transformers has no causal language model of model_type "
        f"{values.get('model_type')!r}: give another model"
    )


def config_fields(directory: Path) -> dict[str, Any]:
    """A directory's `config.json`. Raises CheckpointError when it cannot be read."""
    path = directory / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read ({error}): restore it") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"'{path}' holds no fields: restore it")
    return values


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
