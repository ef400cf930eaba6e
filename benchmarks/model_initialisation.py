"""Loss after forty steps from our initialisation and from a fixed standard deviation of 0.02, by width and family.

    python -m benchmarks.model_initialisation [--widths 64 128 256 512]

Four layers (three linear, one attention), bytes of a module of the standard library, batches of 4 x 96, AdamW with
a rate of 4e-3 at width 64 that falls with the root of the width; mean loss of the last five steps, nats a byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from model import HybridLM, ModelConfig, preset

FAMILIES = ("hgrn2", "gated_deltanet", "mamba2")
STEPS, ROWS, CONTEXT = 40, 4, 96


def config_of(family: str, width: int) -> ModelConfig:
    return preset("miniature").changed(
        pattern=(family, family, family, "attention"),
        width=width,
        feed_forward_width=2 * width,
        hgrn2_head_dim=32,
        gated_deltanet_head_dim=32,
        mamba2_head_dim=32,
        mamba2_state_size=32,
        attention_heads=width // 32,
        key_value_heads=width // 32,
    )


def final_loss(model: HybridLM, text: Tensor, learning_rate: float) -> float:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    losses = []
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - CONTEXT - 1, (ROWS,), generator=generator)
        rows = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    arguments = parser.parse_args()
    text = torch.tensor(list(Path(argparse.__file__).read_bytes()))
    print(f"{'width':>6} {'family':>16} {'ours':>7} {'std 0.02':>9}")
    for width in arguments.widths:
        for family in FAMILIES:
            learning_rate = 4e-3 * (64 / width) ** 0.5
            torch.manual_seed(0)
            ours = HybridLM(config_of(family, width))
            fixed = HybridLM(config_of(family, width))
            for module in fixed.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
            print(
                f"{width:>6} {family:>16} {final_loss(ours, text, learning_rate):>7.3f} "
                f"{final_loss(fixed, text, learning_rate):>9.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
