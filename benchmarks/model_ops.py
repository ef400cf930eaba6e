"""Gated linear attention in chunks against its exact pairwise form and against softmax attention.

    python -m benchmarks.model_ops [--threads 1] [--repeats 10]

Forward and backward, width 256, one sequence; best of the repeats. The pairwise form (what the chunked one must
equal) is itself run in chunks of 64 with the state carried, since over a whole sequence it does not fit in memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from model.ops.gated_linear_attention import chunk_gated_linear_attention
from model.ops.reference import pairwise_gated_linear_attention

CHUNK = 64


def pairwise_in_chunks(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Exact scores inside each chunk, the state between chunks: the plain way to write the chunked form."""
    scale = query.shape[-1] ** -0.5
    state = query.new_zeros(query.shape[0], query.shape[2], query.shape[3], value.shape[3])
    outputs = []
    for q, k, v, g in zip(*(part.split(CHUNK, dim=1) for part in (query, key, value, log_decay)), strict=True):
        total = g.cumsum(dim=1)
        carried = torch.einsum("bthk,bhkv->bthv", q * total.exp(), state)
        outputs.append(pairwise_gated_linear_attention(q, k, v, g) + scale * carried)
        update = torch.einsum("bthk,bthv->bhkv", k * (total[:, -1:] - total).exp(), v)
        state = state * total[:, -1].exp().unsqueeze(-1) + update
    return torch.cat(outputs, dim=1)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, _log_decay: Tensor) -> Tensor:
    """PyTorch's fused causal attention on the same heads."""
    heads = (part.transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)


def best_milliseconds(operation: Callable[..., Tensor], inputs: list[Tensor], repeats: int) -> float:
    """Shortest forward and backward of `operation`."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        output = operation(*inputs)
        torch.autograd.grad(output, inputs, output.detach(), allow_unused=True)
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{'heads x dim':>11} {'tokens':>7} {'chunked ms':>11} {'pairwise ms':>12} {'SDPA ms':>9}  ratios")
    for heads, head_dim in ((4, 64), (2, 128)):
        for tokens in (256, 512, 1024, 4096):
            shape = (1, tokens, heads, head_dim)
            inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
            inputs.append(logsigmoid(torch.randn(shape) + 1).requires_grad_())
            ours = best_milliseconds(lambda *x: chunk_gated_linear_attention(*x)[0], inputs, arguments.repeats)
            pairwise = best_milliseconds(pairwise_in_chunks, inputs, 2)
            softmax = best_milliseconds(softmax_attention, inputs, arguments.repeats)
            print(
                f"{heads:>5} x {head_dim:<4}{tokens:>7} {ours:>11.1f} {pairwise:>12.1f} {softmax:>9.1f}  "
                f"{pairwise / ours:.1f}x pairwise, {softmax / ours:.1f}x SDPA"
            )


if __name__ == "__main__":
    main()
