"""Prove a patched build: a small random HGRN-2 hybrid gives the same logits there as in PyTorch."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from model.errors import ModelError
from model.exports.gguf import GGUFFormat, save_gguf
from model.language_model import HybridLM
from model.llama_cpp.library import Build
from model.llama_cpp.runtime import KeyValueType, LlamaModel
from model.presets import preset

#: Both compute in float32; sums are in another order.
TOLERANCE = 1e-4
_TOKENS = 100


def largest_difference() -> float:
    """Between the two runtimes' logits, over a text of random tokens, with random decays."""
    generator = torch.Generator().manual_seed(0)
    config = preset("miniature")
    model = HybridLM(config).eval()
    tokens = torch.randint(0, config.vocabulary_size, (1, _TOKENS), generator=generator)
    with torch.no_grad(), tempfile.TemporaryDirectory() as directory:
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        path = Path(directory) / "model.gguf"
        save_gguf(model, path, GGUFFormat.F32)
        theirs = LlamaModel(path, Build.PATCHED).logits(tokens[0].tolist(), KeyValueType.F32)
        return float((model(tokens)[0] - torch.from_numpy(theirs)).abs().max())


def main() -> int:
    """Exit status 0 when the build computes what it should."""
    try:
        difference = largest_difference()
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"largest difference of a logit: {difference:.1e}\n")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
