"""What generating takes on one GPU: dollars a million tokens, from bytes and FLOPs.

Decoding a token for each of `batch` sequences reads every weight but the embedding's table once (a tied table is the
head and is read), every sequence's keys and values, and reads and writes every recurrent state:

    seconds a step = max(bytes / (share * bandwidth), batch * forward FLOPs / (MFU * peak))

Reading a prompt is bound by computing: forward FLOPs a token, the head's for the last token only, over MFU * peak.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.budget import Offer
from model import ModelConfig
from model.sizing import cache_size, parameter_count, training_flops_per_token

#: Of the data sheet's bandwidth, what reading weights reaches: an assumption.
BANDWIDTH_SHARE = 0.6
_MILLION = 1e6
#: Forward and backward are three times the forward pass.
_TRAINING_TO_FORWARD = 3


class InferenceCost(BaseModel):
    """One model on one GPU of an offer, with so many sequences at a time, each `context_tokens` long."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    offer: str
    batch: int
    context_tokens: int
    memory_bytes: float = Field(description="weights, and what all sequences keep")
    fits: bool = Field(description="whether that fits the GPU")
    decode_bound: Literal["bandwidth", "compute"]
    decode_tokens_per_second: float = Field(description="of all sequences together")
    decode_usd_per_million_tokens: float
    prefill_tokens_per_second: float
    prefill_usd_per_million_tokens: float


def inference_cost(
    config: ModelConfig,
    offer: Offer,
    *,
    batch: int = 32,
    context_tokens: int = 2048,
    weight_bytes: float = 2.0,
    mfu: float | None = None,
    bandwidth_share: float = BANDWIDTH_SHARE,
) -> InferenceCost:
    """Dollars a million tokens at the price of one of the offer's GPUs, busy all the time.

    weight_bytes: of one weight (bf16: 2; Q4_K_M: about 0.6). mfu: left out, the offer's default.
    """
    parameters = parameter_count(config)
    cache = cache_size(config, context_tokens, element_bytes=2)
    read = parameters.total - (0 if config.tie_embeddings else parameters.embedding)
    moved = weight_bytes * read + batch * (cache.keys_and_values + 2 * cache.states)
    by_bandwidth = moved / (bandwidth_share * offer.memory_bandwidth_gb_per_second * 1e9)
    computed = (mfu or offer.default_mfu) * offer.peak_bf16_teraflops * 1e12
    flops = training_flops_per_token(config, context_tokens)
    # The mean over a prompt of this length; the last token of it, which decoding is, attends to twice as many.
    decode_flops = (flops.total + flops.mixing.get("attention", 0.0)) / _TRAINING_TO_FORWARD
    by_compute = batch * decode_flops / computed
    decoded = batch / max(by_bandwidth, by_compute)
    prefilled = computed / ((flops.total - flops.head) / _TRAINING_TO_FORWARD)
    memory = weight_bytes * parameters.total + batch * cache.total
    return InferenceCost(
        offer=offer.name,
        batch=batch,
        context_tokens=context_tokens,
        memory_bytes=memory,
        fits=memory <= offer.gpu_memory_gb * 1e9,
        decode_bound="bandwidth" if by_bandwidth >= by_compute else "compute",
        decode_tokens_per_second=decoded,
        decode_usd_per_million_tokens=_usd_per_million(offer, decoded),
        prefill_tokens_per_second=prefilled,
        prefill_usd_per_million_tokens=_usd_per_million(offer, prefilled),
    )


def _usd_per_million(offer: Offer, tokens_per_second: float) -> float:
    return offer.usd_per_gpu_hour / 3600 / tokens_per_second * _MILLION
