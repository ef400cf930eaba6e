"""Processes that share rows, started once for all tests: what each case's loss and gradients are when they do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from model import HybridLM
from model.ops import cuda_kernels, reference
from model.sequence_parallel import SequenceParallel, slice_batch
from tests.support.trained_models import small_config

RANKS = 4
#: A document over the border of two slices, and one that starts at it; slices of 75 are no multiple of a chunk.
DOCUMENTS = ((40, 60, 50), (75, 70, 5))
#: Of four slices of 25: a state passes over none, one or two of them whole, unless a document has started there.
IN_FOUR = ((39, 1, 60), (100,))
ATTENTION = {"layer_kinds": ("attention", "attention"), "layer_count": 2}


@dataclass(frozen=True)
class Case:
    """One model and batch, trained on by `size` ranks."""

    family: str
    changes: dict[str, object] = field(default_factory=dict)
    documents: tuple[tuple[int, ...], ...] | None = DOCUMENTS
    attributes: dict[str, object] = field(default_factory=dict)
    size: int = 2
    row_tokens: int = 150
    #: The token-by-token definitions in place of the GPU's kernels, which know nothing of slices.
    as_on_gpu: bool = False
    loss_mask: bool = False


CASES = {
    "hgrn2": Case("hgrn2"),
    "hgrn2, rows of one document": Case("hgrn2", documents=None),
    "hgrn2 without convolutions": Case("hgrn2", {"short_convolution": False}),
    "gated_deltanet": Case("gated_deltanet"),
    "gated_deltanet, rows of one document": Case("gated_deltanet", documents=None),
    "mamba2": Case("mamba2", {"mamba2_groups": 2}),
    "mamba2, rows of one document": Case("mamba2", documents=None),
    "attention, one key/value head": Case("hgrn2", ATTENTION | {"key_value_heads": 1}),
    "attention, one document, norms": Case("hgrn2", ATTENTION | {"query_key_norm": True}, documents=None),
    "recomputed": Case("hgrn2", attributes={"gradient_checkpointing": True}),
    "recomputed gated_deltanet, offloaded": Case(
        "gated_deltanet", attributes={"gradient_checkpointing": True, "offload_activations": True}
    ),
    "recomputed mamba2, feed-forward in chunks": Case(
        "mamba2", attributes={"gradient_checkpointing": True, "feed_forward_chunk_tokens": 32}
    ),
    "loss on the last tokens alone": Case("hgrn2", loss_mask=True),
    "kernels of hgrn2": Case("hgrn2", {}, IN_FOUR, size=4, row_tokens=100, as_on_gpu=True),
    "kernels of gated_deltanet": Case("gated_deltanet", {}, IN_FOUR, size=4, row_tokens=100, as_on_gpu=True),
    "kernels of mamba2": Case("mamba2", {"mamba2_groups": 2}, IN_FOUR, size=4, row_tokens=100, as_on_gpu=True),
    "kernels of gated_deltanet, rows of one document": Case("gated_deltanet", as_on_gpu=True, documents=None),
    "four ranks of hgrn2": Case("hgrn2", {"key_value_heads": 1}, IN_FOUR, size=4, row_tokens=100),
    "four ranks of gated_deltanet": Case("gated_deltanet", {}, IN_FOUR, size=4, row_tokens=100),
    "four ranks of mamba2": Case("mamba2", {}, IN_FOUR, size=4, row_tokens=100),
    "four ranks of mamba2, rows of one document": Case("mamba2", {}, None, size=4, row_tokens=100),
} | {f"what a rank of {size} keeps": Case("hgrn2", documents=None, size=size, row_tokens=1024) for size in (2, 4)}


@dataclass(frozen=True)
class Outcome:
    """What a case gave, put together from all ranks."""

    loss: float
    evaluated: float  # the loss without gradients
    gradients: dict[str, Tensor]
    kept_bytes: int  # that autograd of one rank held when the loss was known


@dataclass(frozen=True)
class Batch:
    """Whole rows, `[batch, time]` each."""

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor | None
    weights: Tensor


def batch_of(case: Case) -> Batch:
    """The case's rows."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 256, (2, case.row_tokens + 1), generator=generator)
    targets, ids = rows[:, 1:].clone(), None
    if case.documents is not None:
        ids = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in case.documents])
        targets[:, :-1].masked_fill_(ids[:, 1:] != ids[:, :-1], -100)
    weights = (targets >= 0).float()
    if case.loss_mask:
        weights[:, :-10] = 0.0
    return Batch(rows[:, :-1], targets, ids, weights)


def model_of(case: Case) -> HybridLM:
    """The case's model, with decays slow enough that states matter long after a border."""
    torch.manual_seed(0)
    model = HybridLM(small_config(case.family, **case.changes))
    if hasattr(model, "lower_bounds"):
        with torch.no_grad():
            model.lower_bounds[1] += 4.0
    for name, value in case.attributes.items():
        setattr(model, name, value)
    return model


def outcome_of(case: Case, context: SequenceParallel | None = None) -> Outcome:
    """Loss and gradients of the case's rows, shared or whole."""
    with _kernels(case.as_on_gpu):
        return _outcome(case, context)


def _outcome(case: Case, context: SequenceParallel | None) -> Outcome:
    batch, model = batch_of(case), model_of(case)
    rank, size = (0, 1) if context is None else (context.rank, context.size)
    tokens, targets, ids = slice_batch(batch.tokens, batch.targets, batch.document_ids, rank, size)
    weights = slice_batch(batch.weights, batch.weights, None, rank, size)[0]
    share = weights.sum() / batch.weights.sum()
    kept = _KeptBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        loss = share * model.loss(tokens, targets, ids, weights, sequence_parallel=context)
    loss.backward()
    with torch.no_grad():
        evaluated = share * model.loss(tokens, targets, ids, weights, sequence_parallel=context)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    summed = [loss.detach(), evaluated, *gradients.values()]
    if context is not None:
        for tensor in summed:
            distributed.all_reduce(tensor, group=context.group)
    return Outcome(float(summed[0]), float(summed[1]), gradients, kept.total)


class _KeptBytes:
    """Counts what autograd holds, parameters aside."""

    def __init__(self, model: HybridLM) -> None:
        self._own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._held: dict[int, Tensor] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own and tensor.is_floating_point():
            self._held[storage.data_ptr()] = tensor
        return tensor

    @property
    def total(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._held.values())


def all_outcomes(directory: Path) -> dict[str, Outcome]:
    """Every case's outcome, by four processes: cases of two ranks are divided among two pairs of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=_run, args=(rank, str(directory))) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    failed = [process.exitcode for process in processes if process.exitcode != 0]
    for process in processes:
        process.kill()
    if failed:
        raise RuntimeError(f"processes ended with {failed}: their output says why")
    outcomes: dict[str, Outcome] = {}
    for path in directory.glob("*.pt"):
        outcomes |= torch.load(path, weights_only=False)
    return outcomes


def _run(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=RANKS)
    pair, everyone = SequenceParallel.of_neighbours(2), SequenceParallel.of_neighbours(RANKS)
    outcomes: dict[str, Outcome] = {}
    pairs_turn = 0
    for name, case in CASES.items():
        if case.size == 2:
            pairs_turn = 1 - pairs_turn
            if pairs_turn != rank // 2:
                continue
        context = pair if case.size == 2 else everyone
        outcome = outcome_of(case, context)
        if context.rank == 0:
            outcomes[name] = outcome
    torch.save(outcomes, f"{directory}/{rank}.pt")
    distributed.destroy_process_group()


@contextmanager
def _kernels(as_on_gpu: bool) -> Iterator[None]:
    """Stand-ins for the GPU's kernels, if wanted."""
    if not as_on_gpu:
        yield
        return
    stand_ins: dict[str, Any] = {
        "takes": lambda tensor, package: package != "flash_attn",
        "gated_linear_attention": reference.naive_gated_linear_attention,
        "gated_delta_rule": reference.naive_gated_delta_rule,
        "state_space_duality": reference.naive_state_space_duality,
    }
    own = {name: getattr(cuda_kernels, name) for name in stand_ins}
    try:
        for name, kernel in stand_ins.items():
            setattr(cuda_kernels, name, kernel)
        yield
    finally:
        for name, kernel in own.items():
            setattr(cuda_kernels, name, kernel)
