"""Both graphs in onnxruntime against the model itself, for every family with trained weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model import (
    CacheError,
    CheckpointError,
    ConfigurationError,
    GenerationError,
    HybridLM,
    ModelConfig,
    SamplingConfig,
    generate,
)
from model.exports.onnx import METADATA_FILE, WEIGHTS_FILE, describe, save_onnx, save_onnx_int8
from model.exports.onnx.graphs import CHUNK_TOKENS, ChunkGraph, GraphModel, StepGraph
from model.exports.onnx.runtime import STEPPED_TOKENS, OnnxRuntime
from model.exports.onnx.writer import check_shapes
from model.interface import Continuation, GenerationSettings, ModelFormat, ModelInterface, open_model
from tests.model.interface.conftest import byte_tokenizer
from tests.support.trained_models import FAMILIES, small_config, text, trained_model

#: Every kind of layer once, because an export takes seconds a layer; HGRN-2 second, where it has a lower bound.
LAYERS: dict[str, tuple[str, ...]] = {
    "hgrn2": ("attention", "hgrn2"),
    "gated_deltanet": ("gated_deltanet", "attention"),
    "mamba2": ("attention", "mamba2"),
}
PROMPT = 2 * CHUNK_TOKENS + 9


@dataclass(frozen=True)
class Exported:
    model: HybridLM
    directory: Path
    int8: Path


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """An export of a family's trained model, made once."""
    made: dict[str, Exported] = {}

    def of(family: str) -> Exported:
        if family not in made:
            layers = LAYERS[family]
            # Tied in one family, so that both forms of the embedding are exported.
            model = trained_model(
                family, layer_kinds=layers, layer_count=len(layers), tie_embeddings=family != "gated_deltanet",
                vocabulary_size=257,
            )  # fmt: skip
            directory = tmp_path_factory.mktemp(family)
            byte_tokenizer().save(str(directory / "tokenizer.json"))
            save_onnx(model, directory / "onnx", directory / "tokenizer.json")
            save_onnx_int8(directory / "onnx", directory / "int8")
            made[family] = Exported(model, directory / "onnx", directory / "int8")
        return made[family]

    return of


@pytest.fixture(params=FAMILIES)
def exported(request: pytest.FixtureRequest, export: Callable[[str], Exported]) -> Exported:
    return export(request.param)


def prompts(rows: int = 2) -> Tensor:
    return torch.stack([text()[start : start + PROMPT + 20] for start in (700, 4000, 9000)[:rows]])


def test_logits_are_the_models(exported: Exported) -> None:
    """A prompt that is no multiple of the chunk, then 20 tokens one by one; two rows, then one."""
    tokens = prompts()
    with torch.no_grad():
        expected = exported.model(tokens).numpy()
    runtime = OnnxRuntime(exported.directory, threads=1)
    for rows in (2, 1):
        state = runtime.new_state(rows)
        found = [runtime.read(tokens[:rows, :PROMPT].numpy(), state, "all")]
        found += [runtime.read(tokens[:rows, [time]].numpy(), state) for time in range(PROMPT, PROMPT + 20)]
        assert state.length == PROMPT + 20
        assert np.abs(np.concatenate(found, axis=1) - expected[:rows]).max() < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        *map(small_config, FAMILIES),
        small_config("hgrn2", short_convolution=False, query_key_norm=True, tie_embeddings=False),
        small_config("gated_deltanet", gated_deltanet_value_expansion=1, key_value_heads=4),
        small_config("mamba2", mamba2_groups=2, feed_forward_layers="attention_only"),
    ],
    ids=lambda config: "-".join(dict.fromkeys(config.mixer_kinds)),
)
def test_the_graphs_modules_are_the_model(config: ModelConfig) -> None:
    """What is exported, run by torch: every layer and option, without the time of an export."""
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    graphs = GraphModel(model)
    tokens = prompts()[:, : CHUNK_TOKENS + 12]
    sizes = {"batch": 2, "past": 0}
    states = [
        torch.zeros([sizes[size] if isinstance(size, str) else size for size in one.shape]) for one in graphs.states
    ]
    with torch.no_grad():
        first, *states = ChunkGraph(graphs)(
            tokens[:, :CHUNK_TOKENS],
            torch.tensor(0),
            torch.tensor(CHUNK_TOKENS),
            torch.arange(CHUNK_TOKENS),
            tuple(states),
        )
        padded = functional.pad(tokens[:, CHUNK_TOKENS : CHUNK_TOKENS + 10], (0, CHUNK_TOKENS - 10), value=7)
        second, *states = ChunkGraph(graphs)(
            padded, torch.tensor(CHUNK_TOKENS), torch.tensor(10), torch.arange(10), tuple(states)
        )
        length = CHUNK_TOKENS + 10
        states = [
            one[:, :, :length] if "past" in spec.shape else one for spec, one in zip(graphs.states, states, strict=True)
        ]
        found = [first, second]
        for time in (length, length + 1):
            logits, *states = StepGraph(graphs)(tokens[:, [time]], torch.tensor(time), tuple(states))
            found.append(logits)
        assert float((torch.cat(found, dim=1) - model(tokens)).abs().max()) < 5e-5


@pytest.mark.parametrize("length", [1, STEPPED_TOKENS, STEPPED_TOKENS + 1, CHUNK_TOKENS, CHUNK_TOKENS + 1])
def test_any_split_of_a_text_gives_the_same(export: Callable[[str], Exported], length: int) -> None:
    exported = export("hgrn2")
    tokens = prompts(1)
    with torch.no_grad():
        expected = exported.model(tokens)[:, -1].numpy()
    runtime = OnnxRuntime(exported.directory, threads=1)
    state = runtime.new_state(1)
    runtime.read(tokens[:, :length].numpy(), state)
    assert np.abs(runtime.read(tokens[:, length:].numpy(), state)[:, -1] - expected).max() < 1e-4


def test_greedy_text_is_the_models(exported: Exported) -> None:
    runtime = OnnxRuntime(exported.directory, threads=1)
    state = runtime.new_state(1)
    prompt = prompts(1)[:, :PROMPT]
    written = [int(runtime.read(prompt.numpy(), state).argmax())]
    while len(written) < 20:
        written.append(int(runtime.read(np.array([written[-1:]]), state).argmax()))
    assert written == generate(exported.model, prompt, 20)[0]


def test_int8_keeps_the_distribution(exported: Exported) -> None:
    """KL to the float model in nats a token, beside a loss near 2.5."""
    tokens = prompts()
    with torch.no_grad():
        theirs = exported.model(tokens).log_softmax(-1)
    runtime = OnnxRuntime(exported.int8, threads=1)
    state = runtime.new_state(2)
    found = [runtime.read(tokens[:, :PROMPT].numpy(), state, "all")]
    found += [runtime.read(tokens[:, [time]].numpy(), state) for time in range(PROMPT, PROMPT + 20)]
    ours = torch.from_numpy(np.concatenate(found, axis=1)).log_softmax(-1)
    assert 1e-6 < float((theirs.exp() * (theirs - ours)).sum(-1).mean()) < 0.01
    assert (exported.int8 / WEIGHTS_FILE).stat().st_size < 0.6 * (exported.directory / WEIGHTS_FILE).stat().st_size


def test_projections_of_decays_stay_exact_in_int8(exported: Exported) -> None:
    def weights(directory: Path) -> set[str]:
        graph = onnx.load(str(directory / "step.onnx")).graph
        held = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
        return {node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in held}

    kept, before = weights(exported.int8), weights(exported.directory)
    assert any(name.endswith("o_proj.weight") for name in before)
    assert kept == {name for name in before if name.split(".")[-2] in ("f_proj", "a_proj", "b_proj", "dt_proj")}


def test_both_graphs_read_one_copy_of_the_weights(exported: Exported) -> None:
    matrices = sum(part.numel() * 4 for name, part in exported.model.named_parameters() if part.dim() == 2)
    held = (exported.directory / WEIGHTS_FILE).stat().st_size
    assert matrices * 0.95 < held < matrices * 1.6  # masks of a chunk are much beside matrices this small
    for file in ("step.onnx", "chunk.onnx"):
        assert (exported.directory / file).stat().st_size < held


def test_sizes_that_should_vary_do_and_the_others_do_not(exported: Exported) -> None:
    description = describe(exported.directory)
    for graph in (description.step, description.chunk):
        shapes = {
            value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in onnx.load(str(exported.directory / graph.file), load_external_data=False).graph.input
        }
        assert list(shapes) == list(graph.inputs)
        batch, time = shapes["tokens"]
        assert isinstance(batch, str) and time == (1 if graph is description.step else CHUNK_TOKENS)
        for state in description.states:
            for found, wanted in zip(shapes[state.name], state.shape, strict=True):
                assert isinstance(found, str) if isinstance(wanted, str) else found == wanted


def test_a_size_the_exporter_fixed_is_refused() -> None:
    def graph(*sizes: int | str | None) -> onnx_ir.Graph:
        value = onnx_ir.Value(name="tokens", shape=onnx_ir.Shape(sizes))
        return onnx_ir.Graph(inputs=[value], outputs=[], nodes=[])

    check_shapes(graph("s0", 64), [("tokens", ("batch", 64))])
    for wrong in (graph(2, 64), graph("s0", 96), graph("s0", "s1"), graph("s0")):
        with pytest.raises(ConfigurationError, match="tokens the shape"):
            check_shapes(wrong, [("tokens", ("batch", 64))])
    with pytest.raises(ConfigurationError, match="tokens the shape"):
        check_shapes(graph("s0", "s1"), [("tokens", ("batch", "batch"))])
    with pytest.raises(ConfigurationError, match="the inputs"):
        check_shapes(graph("s0", 64), [("ids", ("batch", 64))])


def test_nothing_of_this_machine_is_in_the_files(exported: Exported) -> None:
    for path in exported.directory.iterdir():
        content = path.read_bytes()
        assert str(Path.cwd()).encode() not in content and b".py" not in content


def test_damage_is_found_before_anything_runs(export: Callable[[str], Exported], tmp_path: Path) -> None:
    source = export("mamba2").directory
    for name in (WEIGHTS_FILE, "chunk.onnx"):
        copy = tmp_path / name
        copy.mkdir()
        for path in source.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        damaged = bytearray((copy / name).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (copy / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name} is not the file that was exported"):
            open_model(copy)
        (copy / name).unlink()
        with pytest.raises(CheckpointError, match="cannot be read"):
            OnnxRuntime(copy)
    (copy / METADATA_FILE).write_text(json.dumps({"version": 2}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        describe(copy)
    (copy / METADATA_FILE).unlink()
    with pytest.raises(CheckpointError, match="holds no ONNX export"):
        describe(copy)


def test_a_directory_appears_whole_or_not_at_all(
    export: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = export("mamba2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        save_onnx(source.model, tmp_path / "full")
    with pytest.raises(ConfigurationError, match="quantized already"):
        save_onnx_int8(source.int8, tmp_path / "twice")

    def fails(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("model.exports.onnx.int8.share_weights", fails)
    with pytest.raises(OSError, match="disk full"):
        save_onnx_int8(source.directory, tmp_path / "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_layers_that_are_not_plain_matrices_are_refused() -> None:
    class Adapted(nn.Linear):
        """Holds more than its matrix."""

    model = HybridLM(small_config("hgrn2"))
    model.layers[1].mlp.up_proj = Adapted(64, 128, bias=False)  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match=r"layers\.1\.mlp\.up_proj is a Adapted.*merge"):
        GraphModel(model)


def test_a_state_of_another_batch_is_refused(export: Callable[[str], Exported]) -> None:
    runtime = OnnxRuntime(export("mamba2").directory, threads=1)
    with pytest.raises(CacheError, match="holds 2 sequences"):
        runtime.read(np.array([[1]]), runtime.new_state(2))


@pytest.fixture(params=["float32", "int8"])
def opened(request: pytest.FixtureRequest, export: Callable[[str], Exported]) -> ModelInterface:
    exported = export("hgrn2")
    return open_model(exported.directory if request.param == "float32" else exported.int8)


def test_says_what_it_is(opened: ModelInterface, export: Callable[[str], Exported]) -> None:
    info = opened.info()
    assert info.format in (ModelFormat.ONNX, ModelFormat.ONNX_INT8)
    assert info.layers == ["attention", "hgrn2"] and info.vocabulary_size == 257
    assert info.parameters == sum(one.numel() for one in export("hgrn2").model.parameters())
    assert opened.health().ok


def test_each_prompt_is_answered_as_if_alone(opened: ModelInterface) -> None:
    settings = GenerationSettings(maximum_new_tokens=8, sampling=SamplingConfig(seed=3, repetition_penalty=1.2))
    texts = ["def parse(", "a longer prompt than that", "import os\n", ""]
    together = opened.generate(texts, settings)
    assert [answer.prompt_tokens for answer in together] == [11, 26, 11, 1]
    assert [answer.text for answer in together] == [opened.generate([one], settings)[0].text for one in texts]
    pieces = [""] * len(texts)
    for piece in opened.stream_batch(texts, settings):
        pieces[piece.prompt] += piece.text
    assert pieces == [answer.text for answer in together]


def test_texts_and_scores_are_the_models(export: Callable[[str], Exported], tmp_path: Path) -> None:
    """The same requests to the torch model and to the graphs, at a temperature and with stop texts."""
    from model import save

    exported = export("hgrn2")
    save(exported.model, tmp_path / "fp32")
    ours, theirs = open_model(exported.directory), open_model(tmp_path / "fp32", exported.directory / "tokenizer.json")
    settings = GenerationSettings(
        maximum_new_tokens=30,
        sampling=SamplingConfig(temperature=0.8, top_p=0.9, seed=5),
        stop_texts=("\n\n",),
        log_probabilities=True,
    )
    texts = ["def parse_args(self", "raise ArgumentError(", "x" * 70]
    for found, expected in zip(ours.generate(texts, settings), theirs.generate(texts, settings), strict=True):
        assert (found.text, found.new_tokens, found.finished) == (
            expected.text, expected.new_tokens, expected.finished
        )  # fmt: skip
        assert found.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-3)
    for found, expected in zip(ours.score([*texts, ""]), theirs.score([*texts, ""]), strict=True):
        assert found.tokens == expected.tokens
        assert found.log_likelihoods == pytest.approx(expected.log_likelihoods, abs=1e-3)


def test_contexts_are_read_once(opened: ModelInterface) -> None:
    context = [0, *opened.encode("the quick brown fox")]
    asked = [Continuation(context, choice) for choice in ([9, 8, 7], [4], [9, 8], [3])]
    for one, score in zip(asked, opened.score_continuations(asked), strict=True):
        (scores,) = opened.score_tokens([[*one.context, *one.tokens]])
        # Int8 rounds what is read together with one range: a step apart.
        assert score.log_likelihood == pytest.approx(scores[-len(one.tokens) :].sum(), rel=0.03, abs=0.01)


def test_requests_it_cannot_serve(opened: ModelInterface) -> None:
    limit = opened.info().maximum_context
    with pytest.raises(GenerationError, match=f"maximum_context of {limit}"):
        opened.generate(["x" * limit])
    with pytest.raises(GenerationError, match=f"maximum_context of {limit}"):
        opened.score(["x" * limit])
    with pytest.raises(GenerationError, match="2 settings for 1 prompts"):
        opened.generate(["x"], [GenerationSettings(), GenerationSettings()])
    assert list(opened.stream_batch(["x"], cancel=lambda: True)) == []
