"""Cross entropy of an output head, in chunks of tokens, so that logits never exist for the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 1024


def chunked_cross_entropy(
    hidden: Tensor, head: nn.Module, targets: Tensor, weights: Tensor, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """`sum(weights * cross_entropy(head(hidden), targets))`, a float32 scalar.

    `hidden` is `[tokens, width]`, `targets` and `weights` are `[tokens]`. When gradients are wanted they are
    computed with the loss, chunk by chunk (as Liger-Kernel does), so that the head runs once. The head is called
    as a module; its trainable parameters get their gradients whatever it is made of.
    """
    trainable = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and (hidden.requires_grad or trainable):
        loss: Tensor = _LossWithGradients.apply(hidden, head, targets, weights, chunk_tokens, *trainable)
        return loss
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, target, weight in _chunks(chunk_tokens, hidden, targets, weights):
        total += _loss_and_slope(head(rows).float(), target, weight)
    return total


class _LossWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: nn.Module,
        targets: Tensor,
        weights: Tensor,
        chunk_tokens: int,
        *trainable: Tensor,
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grads: list[Tensor] = []
        parameter_grads: list[Tensor | None] = [None] * len(trainable)
        for rows, target, weight in _chunks(chunk_tokens, hidden, targets, weights):
            with torch.enable_grad():
                rows = rows.detach().requires_grad_()
                logits = head(rows)
            slope = logits.detach().float()
            total += _loss_and_slope(slope, target, weight)
            row_grad, *grads = torch.autograd.grad(logits, [rows, *trainable], slope.to(logits.dtype))
            hidden_grads.append(row_grad)
            parameter_grads = [
                grad if before is None else before.add_(grad)
                for before, grad in zip(parameter_grads, grads, strict=True)
            ]
        ctx.save_for_backward(torch.cat(hidden_grads), *parameter_grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, *parameter_grads = (grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors)
        return hidden_grad, None, None, None, None, *parameter_grads


def _chunks(size: int, *tensors: Tensor) -> Any:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _loss_and_slope(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted loss of `logits` `[tokens, vocabulary]`, which are overwritten with the loss's gradient."""
    targets = targets.unsqueeze(-1)
    logits -= logits.max(dim=-1, keepdim=True).values
    chosen = logits.gather(-1, targets).squeeze(-1)
    exponentials = logits.exp_()
    total = exponentials.sum(dim=-1)
    loss = (weights * (total.log() - chosen)).sum()
    exponentials *= (weights / total).unsqueeze(-1)
    exponentials.scatter_add_(-1, targets, -weights.unsqueeze(-1))
    return loss
