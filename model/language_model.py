"""The hybrid language model: linear-recurrent and attention layers in any order."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.activation_offload import offloaded_activations
from model.cache import DEFAULT_SNAPSHOTS, Cache, SnapshotPolicy
from model.config import ModelConfig
from model.errors import ConfigurationError
from model.layers import Block
from model.linear import Linear
from model.norms import RMSNorm
from model.ops.cross_entropy import chunked_cross_entropy
from model.sequence import Sequence
from model.sequence_parallel import SequenceParallel

# Projections that write into the residual stream.
_RESIDUAL = ("o_proj", "out_proj", "down_proj")


class HybridLM(nn.Module):
    """Embedding, blocks, norm, head. Parameter names are fla's (`HGRN2Model` and its `lm_head`).

    Attributes that trade time for memory in training, and change no result:

    - `gradient_checkpointing` recomputes each block in the backward pass instead of keeping its activations.
    - `offload_activations` keeps the inputs of recomputed blocks in the processor's memory instead of the GPU's.
    - `feed_forward_chunk_tokens` computes feed-forwards for this many tokens of a row at a time, once more in the
      backward pass, so that their inner activations never exist for whole rows (as TiledMLP in Arctic Long Sequence
      Training, Bekman et al. 2025, arXiv:2506.13996).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.offload_activations = False
        self.embeddings = nn.Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layer_count))
        if any(block.attn.has_lower_bound for block in self._blocks()):
            # One row a layer, attention layers included: the bound of a layer sums the rows before it.
            self.lower_bounds = nn.Parameter(torch.zeros(config.layer_count, config.width))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = Linear(config.width, config.vocabulary_size, bias=False)
        self._initialise()
        self.tie()

    @property
    def feed_forward_chunk_tokens(self) -> int | None:
        """Tokens of a row that a feed-forward takes at a time in training; None: all."""
        chunks = {block.feed_forward_chunk_tokens for block in self._blocks()}
        return chunks.pop()

    @feed_forward_chunk_tokens.setter
    def feed_forward_chunk_tokens(self, tokens: int | None) -> None:
        if tokens is not None and tokens < 1:
            raise ConfigurationError(f"feed_forward_chunk_tokens={tokens}: give at least 1, or None for whole rows")
        for block in self._blocks():
            block.feed_forward_chunk_tokens = tokens

    def forward(
        self,
        tokens: Tensor,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        logits_for: Literal["all", "last"] = "all",
    ) -> Tensor:
        """Logits `[batch, time, vocabulary]` of `tokens` `[batch, time]`; `[batch, 1, vocabulary]` for the last.

        `document_ids` `[batch, time]` differ between neighbours where a packed row passes from one document to
        the next. With a `cache` the tokens continue what it has seen, and it is advanced.
        """
        hidden = self.hidden_states(tokens, document_ids, cache, states_for=logits_for)
        logits: Tensor = self.lm_head(hidden)
        return logits

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        document_ids: Tensor | None = None,
        loss_mask: Tensor | None = None,
        sequence_parallel: SequenceParallel | None = None,
    ) -> Tensor:
        """Mean cross entropy in nats of `targets` `[batch, time]`; `targets[:, t]` follows `tokens[:, t]`.

        Negative targets (-100) are left out. `loss_mask` `[batch, time]` weighs tokens: 0 leaves one out. With
        `sequence_parallel` all arguments are this process's slice of the rows (`slice_batch`), and the mean is over
        the slice's own targets, 0 where it has none: weigh it by their number to put rows together again. Gradients
        are those of the sum of what all processes of the group call `backward` on, this process's share of them.
        """
        hidden = self.hidden_states(tokens, document_ids, sequence_parallel=sequence_parallel).flatten(0, 1)
        flat = targets.flatten()
        weights = (flat >= 0).float()
        if loss_mask is not None:
            weights = weights * loss_mask.flatten()
        total = chunked_cross_entropy(hidden, self.lm_head, flat.clamp_min(0), weights)
        return total / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)

    def hidden_states(
        self,
        tokens: Tensor,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        states_for: Literal["all", "last"] = "all",
        sequence_parallel: SequenceParallel | None = None,
    ) -> Tensor:
        """What the head reads, `[batch, time, width]`; for the last token, `[batch, 1, width]`.

        For the last alone, the last layer computes nothing for the others but what its mixer remembers of them.
        With `sequence_parallel` the tokens are this process's slice of longer rows, all slices equally long.
        """
        batch, time = tokens.shape
        if sequence_parallel is not None and sequence_parallel.size == 1:
            sequence_parallel = None
        sequence = Sequence(
            self.config, batch, time, tokens.device, document_ids, cache, sequence_parallel=sequence_parallel
        )
        hidden: Tensor = self.embeddings(tokens)
        last_alone = replace(sequence, last_alone=True) if states_for == "last" and time > 1 else sequence
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        with self._offloading(recompute):
            for block, lower_bound in zip(self._blocks(), self._lower_bounds(), strict=True):
                if block is self.layers[-1]:
                    sequence = last_alone
                if recompute:
                    hidden = checkpoint(block, hidden, sequence, lower_bound, use_reentrant=False)
                else:
                    hidden = block(hidden, sequence, lower_bound)
        if cache is not None:
            cache.advance(tokens)
        normed: Tensor = self.norm(hidden)
        return normed

    def new_cache(self, snapshots: SnapshotPolicy = DEFAULT_SNAPSHOTS) -> Cache:
        """An empty cache for this model, which copies its states as `snapshots` says."""
        return Cache(self.config, snapshots)

    def tie(self) -> None:
        """Make the head share the embedding's matrix, when the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embeddings.weight

    def _offloading(self, recompute: bool) -> AbstractContextManager[object]:
        if not self.offload_activations or not torch.is_grad_enabled():
            return nullcontext()
        if not recompute:
            raise ConfigurationError(
                "offload_activations is for the inputs of recomputed blocks: set gradient_checkpointing as well"
            )
        return offloaded_activations()

    def _blocks(self) -> list[Block]:
        return [block for block in self.layers if isinstance(block, Block)]

    def _lower_bounds(self) -> list[Tensor | None]:
        """The least forget gate of each layer: a softmax over the layers, summed up to each (HGRN-2, eq. 9)."""
        if not hasattr(self, "lower_bounds"):
            return [None] * self.config.layer_count
        shares = self.lower_bounds.softmax(dim=0, dtype=torch.float32)
        bounds = (shares.cumsum(dim=0) - shares[0]).unbind(0)
        return [None, *bounds[1:]]

    def _initialise(self) -> None:
        """Linears: normal with std `fan_in ** -0.5`, so that signals keep their size at every width (a fixed 0.02
        does not train at width 64). Projections into the residual stream: divided by `sqrt(2 * layers)`, so that
        the stream's size does not grow with depth (GPT-2).
        """
        config = self.config
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = config.linear_initializer_scale * module.in_features**-0.5
                if name.endswith(_RESIDUAL):
                    std /= math.sqrt(2 * config.layer_count)
                nn.init.normal_(module.weight, std=std)
        std = config.embedding_initializer_std or config.width**-0.5
        nn.init.normal_(self.embeddings.weight, std=std)
        nn.init.normal_(self.lm_head.weight, std=std)
