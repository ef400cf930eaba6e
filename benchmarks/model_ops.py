"""The mixers' core operations against the functions their peers have for the same on CPU.

    python -m benchmarks.model_ops [--threads 1] [--contexts 512 2048 8192] [--repeats 5] [--ops NAME …]

Each of ours gets the same inputs as its peer (width 512, one sequence) and has to give the same results, which is
checked first. Forward without gradients, and forward with backward. The functions take turns; the figures are the best
of the repeats, by the process's CPU time with one thread, by the wall's clock with several.

- gated linear attention: fla's chunked form in plain PyTorch has no stable factored product, so the peer is the
  textbook chunked form (exact pairwise decays inside chunks of 64), and PyTorch's causal attention beside it.
- gated delta rule: `torch_chunk_gated_delta_rule` of transformers' Qwen3.5.
- state space duality: the chunked scan of transformers' GraniteMoeHybrid.
- attention: `scaled_dot_product_attention` with the keys and values repeated; continuation, a second half of the
  sequence over a cache of the first: the same with a mask.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.model_peers import granite_scan, qwen_delta_rule
from model.ops.attention import causal_attention, continued_attention
from model.ops.gated_delta_rule import chunk_gated_delta_rule
from model.ops.gated_linear_attention import chunk_gated_linear_attention
from model.ops.reference import pairwise_gated_linear_attention
from model.ops.state_space_duality import chunk_state_space_duality

CHUNK = 64
Operation = Callable[..., Tensor]


@dataclass(frozen=True)
class Comparison:
    """An operation of ours, its peers, and inputs for a number of tokens."""

    inputs: Callable[[int], list[Tensor]]
    ours: Operation
    peers: dict[str, Operation]
    #: Peers that compute something else, whose time alone is compared.
    others: dict[str, Operation]


def heads(tokens: int, count: int, dim: int) -> Tensor:
    return torch.randn(1, tokens, count, dim)


def linear_attention_inputs(tokens: int) -> list[Tensor]:
    decay = functional.logsigmoid(heads(tokens, 4, 128) + 1)
    return [*(heads(tokens, 4, 128) for _ in range(3)), decay]


def delta_rule_inputs(tokens: int) -> list[Tensor]:
    query, key = (functional.normalize(heads(tokens, 4, 128), dim=-1) for _ in range(2))
    decay = functional.logsigmoid(torch.randn(1, tokens, 4) + 3)
    return [query, key, heads(tokens, 4, 128), decay, torch.rand(1, tokens, 4)]


def state_space_inputs(tokens: int) -> list[Tensor]:
    step_sizes = functional.softplus(torch.randn(1, tokens, 16) - 3)
    rates = -torch.rand(16) * 15 - 1
    return [heads(tokens, 16, 64), step_sizes, rates, heads(tokens, 1, 128), heads(tokens, 1, 128)]


def attention_inputs(tokens: int) -> list[Tensor]:
    return [torch.randn(1, count, tokens, 64) for count in (8, 4, 4)]


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


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, *_rest: Tensor) -> Tensor:
    """PyTorch's fused causal attention on the same heads, `[batch, time, heads, dim]`."""
    parts = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2)


def repeated_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What transformers' models call: keys and values repeated for each query head."""
    key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def our_continuation(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return continued_attention(query[:, :, query.shape[2] // 2 :], key, value)


def masked_continuation(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What transformers' models call for a later part of a prompt."""
    time = query.shape[2]
    mask = torch.ones(time, time, dtype=torch.bool).tril()[time // 2 :]
    key, value = (part.repeat_interleave(2, dim=1) for part in (key, value))
    return functional.scaled_dot_product_attention(query[:, :, time // 2 :], key, value, attn_mask=mask)


COMPARISONS = {
    "gated linear attention": Comparison(
        linear_attention_inputs,
        lambda *x: chunk_gated_linear_attention(*x)[0],
        {"pairwise": pairwise_in_chunks},
        {"SDPA": softmax_attention},
    ),
    "gated delta rule": Comparison(
        delta_rule_inputs,
        lambda *x: chunk_gated_delta_rule(*x)[0],
        {"Qwen3.5": qwen_delta_rule},
        {"SDPA": softmax_attention},
    ),
    "state space duality": Comparison(
        state_space_inputs, lambda *x: chunk_state_space_duality(*x)[0], {"Granite": granite_scan}, {}
    ),
    "attention": Comparison(attention_inputs, causal_attention, {"SDPA repeated": repeated_attention}, {}),
    "attention, continued": Comparison(attention_inputs, our_continuation, {"SDPA masked": masked_continuation}, {}),
}


def best_milliseconds(
    operations: dict[str, Operation], inputs: list[Tensor], backward: bool, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Shortest time of each, measured in turns after one warm-up."""
    best = dict.fromkeys(operations, float("inf"))
    leaves = [tensor.detach().requires_grad_(backward) for tensor in inputs]
    for turn in range(repeats + 1):
        for name, operation in operations.items():
            begin = clock()
            with torch.set_grad_enabled(backward):
                output = operation(*leaves)
            if backward:
                torch.autograd.grad(output, leaves, output.detach(), allow_unused=True)
            if turn:
                best[name] = min(best[name], 1e3 * (clock() - begin))
    return best


def check(comparison: Comparison) -> None:
    """Ours and the peers' results agree."""
    inputs = comparison.inputs(256)
    expected = comparison.ours(*inputs)
    for operation in comparison.peers.values():
        torch.testing.assert_close(operation(*inputs), expected, atol=2e-3, rtol=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ops", nargs="+", help="names or parts of names; all when left out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"{'operation':<24}{'tokens':>7}{'pass':>18}{'ours ms':>10}  peers' ms (times ours)")
    for name, comparison in COMPARISONS.items():
        if arguments.ops and not any(part in name for part in arguments.ops):
            continue
        check(comparison)
        for tokens in arguments.contexts:
            for backward in (False, True):
                operations = {"ours": comparison.ours} | comparison.peers | comparison.others
                times = best_milliseconds(operations, comparison.inputs(tokens), backward, arguments.repeats, clock)
                ours = times.pop("ours")
                others = ", ".join(f"{peer} {taken:.1f} ({taken / ours:.1f}x)" for peer, taken in times.items())
                which = "forward, backward" if backward else "forward"
                print(f"{name:<24}{tokens:>7}{which:>18}{ours:>10.1f}  {others}", flush=True)


if __name__ == "__main__":
    main()
