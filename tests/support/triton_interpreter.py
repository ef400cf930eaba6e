"""flash-linear-attention's real Triton kernels on a CPU, in a child process: the reference our operations must equal.

Triton's interpreter executes kernels with NumPy when `TRITON_INTERPRET=1` is set before it is imported. A child
process, because transformers chooses fla's kernels as soon as fla can be imported, and those fail on a CPU
outside the interpreter. Starting one takes some seconds, so callers put all their work into one `interpret` call.

Tensors travel as safetensors files; nothing is kept.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_TIMEOUT_SECONDS = 540
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """`function` (`package.module:name`) called with keyword arguments `tensors` and `options`.

    Its results are returned as `result0`, `result1`, ...; those that are None are left out. With `gradients`,
    `gradient.NAME` for every floating-point tensor is returned too: that of `sum(slopes(result) * result)`.
    """

    function: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    gradients: bool = False


@dataclass(frozen=True)
class ModelRun:
    """A fla model saved in `directory`, run on `tokens` `[batch, time]`.

    Returns `logits` `[batch, time, vocabulary]` without a cache and, when `new_tokens` is positive, the greedy
    `continuation` `[batch, new_tokens]`, decoded with fla's cache.
    """

    directory: Path
    tokens: Tensor
    new_tokens: int = 0


Job = Call | ModelRun


def interpret(jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
    """The results of all jobs, in order, from one child process; `RuntimeError` with its output if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "jobs.safetensors"), Path(folder, "results.safetensors")
        _write_jobs(jobs, source)
        environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
        child = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(source), str(target)],
            env=environment,
            cwd=_REPOSITORY,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        if child.returncode != 0:
            raise RuntimeError(f"the interpreter process failed:\n{child.stdout[-2000:]}\n{child.stderr[-6000:]}")
        results: list[dict[str, Tensor]] = [{} for _ in jobs]
        with safe_open(target, framework="pt") as file:
            for full_name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                index, name = full_name.split(".", 1)
                results[int(index)][name] = file.get_tensor(full_name)
        return results


def model_logits(directory: Path, tokens: Tensor, new_tokens: int = 0) -> tuple[Tensor, Tensor | None]:
    """Logits and greedy continuation of one `ModelRun`."""
    result = interpret([ModelRun(directory, tokens, new_tokens)])[0]
    return result["logits"], result.get("continuation")


def slopes(result: Tensor) -> Tensor:
    """The gradient taken of a result: fixed and uneven, so that every path through a backward pass counts."""
    return torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)


def _write_jobs(jobs: Sequence[Job], path: Path) -> None:
    tensors = {
        f"{index}.{name}": part.detach().contiguous().clone()
        for index, job in enumerate(jobs)
        for name, part in ({"tokens": job.tokens} if isinstance(job, ModelRun) else job.tensors).items()
    }
    save_file(tensors, path, metadata={"jobs": json.dumps([_description(job) for job in jobs])})


def _description(job: Job) -> dict[str, Any]:
    """What is not a tensor."""
    if isinstance(job, ModelRun):
        return {"directory": str(job.directory.absolute()), "new_tokens": job.new_tokens}
    return {"function": job.function, "options": dict(job.options), "gradients": job.gradients}


def _read_jobs(path: Path) -> list[Job]:
    jobs: list[Job] = []
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for index, description in enumerate(json.loads(file.metadata()["jobs"])):
            prefix = f"{index}."
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
            if "function" in description:
                jobs.append(Call(tensors=tensors, **description))
            else:
                jobs.append(ModelRun(Path(description["directory"]), tensors["tokens"], description["new_tokens"]))
    return jobs


def _run(job: Job) -> dict[str, Tensor]:
    return _run_model(job) if isinstance(job, ModelRun) else _run_call(job)


def _run_call(job: Call) -> dict[str, Tensor]:
    module, name = job.function.split(":")
    function = getattr(importlib.import_module(module), name)
    importlib.import_module("fla.ops")  # all kernels, should the function import them only when called
    _make_loops_interpretable()
    leaves = {
        name: part.requires_grad_(job.gradients and part.is_floating_point()) for name, part in job.tensors.items()
    }
    with torch.set_grad_enabled(job.gradients):
        results = function(**leaves, **job.options)
    results = results if isinstance(results, tuple) else (results,)
    kept = {f"result{index}": result for index, result in enumerate(results) if result is not None}
    if not job.gradients:
        return kept
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    weights = [slopes(result) for result in kept.values()]
    gradients = torch.autograd.grad(list(kept.values()), list(wanted.values()), weights)
    return kept | {f"gradient.{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}


@torch.no_grad()
def _run_model(job: ModelRun) -> dict[str, Tensor]:
    # Importing fla registers its models with transformers.
    import fla.layers.attn
    import fla.models
    from transformers import AutoModelForCausalLM

    fla.layers.attn.flash_attn_func = _flash_attention
    model = AutoModelForCausalLM.from_pretrained(job.directory, dtype=torch.float32).eval()
    _make_loops_interpretable()
    results = {"logits": model(job.tokens, use_cache=False).logits}
    if job.new_tokens:
        results["continuation"] = torch.stack(list(_greedy(model, job.tokens, job.new_tokens)), dim=1)
    return results


def _greedy(model: Any, tokens: Tensor, count: int) -> Iterator[Tensor]:
    past = None
    for _ in range(count):
        step = model(tokens, past_key_values=past, use_cache=True)
        past, chosen = step.past_key_values, step.logits[:, -1].argmax(dim=-1)
        yield chosen
        tokens = chosen.unsqueeze(1)


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, window_size: tuple[int, int]) -> Tensor:
    """`flash_attn_func` as fla calls it, with its alignment: the last query sees every key."""
    assert causal and window_size == (-1, -1)
    visible = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).tril(key.shape[1] - query.shape[1])
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True).transpose(1, 2)


def _skip_autotuning() -> None:
    """Take the first configuration of every kernel: timing them needs a driver, which a CPU does not have."""
    autotuner = importlib.import_module("triton.runtime.autotuner").Autotuner
    autotuner._bench = lambda *_, **__: 0.0


class _LoopIndex(int):
    """A loop variable inside a kernel, which fla casts with `.to(tl.int64)`; arithmetic keeps the type."""

    def to(self, *_: object, **__: object) -> _LoopIndex:
        return self


def _keeping_type(name: str) -> Any:
    plain = getattr(int, name)

    def operation(left: int, right: object) -> object:
        result = plain(left, right)
        return result if result is NotImplemented else _LoopIndex(result)

    return operation


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod"):
    setattr(_LoopIndex, f"__{_name}__", _keeping_type(f"__{_name}__"))


def _kernel_range(*bounds: Any) -> Iterator[_LoopIndex]:
    """`range` whose bounds may be the interpreter's scalars or compile-time constants."""
    return (_LoopIndex(index) for index in range(*map(_plain_integer, bounds)))


def _plain_integer(value: Any) -> int:
    return int(value.handle.data.item()) if hasattr(value, "handle") else int(getattr(value, "value", value))


def _make_loops_interpretable() -> None:
    """Give every fla module imported so far the `range` above; the interpreter hands kernels Python's own."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.") and module is not None:
            module.__dict__["range"] = _kernel_range


def _main(source: Path, target: Path) -> None:
    _skip_autotuning()
    results = {
        f"{index}.{name}": result.detach().contiguous().clone()
        for index, job in enumerate(_read_jobs(source))
        for name, result in _run(job).items()
    }
    save_file(results, target)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
