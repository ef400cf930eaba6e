"""A tiny base model with its tokenizer and tokens, and conversations with something to learn."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from infra.processes import ChildFailed
from model import HybridLM, ModelConfig, save
from tasks.finetuning import CONVERSATIONS, FINETUNING, ConversationsConfig, FinetuningConfig, trainer
from tasks.finetuning.job import AdapterJob
from tasks.registration import RegistrationConfig
from tasks.tokenization import TOKENIZER_FILE, TokenizationConfig
from tasks.tokenization.token_shards import SOURCES_FILE, write_token_shard
from tasks.tokenization.tokenizer import save_tokenizer, train_tokenizer
from tasks.training import trainer as training
from tasks.training.engine import Placement
from tests.tasks.training.conftest import process_group  # noqa: F401 - a fixture

THINGS = ("apple", "banana", "cherry", "grape", "lemon", "melon", "olive", "peach", "plum", "quince")
COLOURS = ("red", "yellow", "green", "blue", "brown")
MODEL = ModelConfig(
    vocabulary_size=352,
    width=32,
    layer_count=2,
    pattern=("hgrn2", "attention"),
    attention_heads=2,
    key_value_heads=1,
    feed_forward_width=64,
    hgrn2_head_dim=16,
    maximum_context=256,
)


def messages(number: int) -> list[dict[str, str]]:
    """A conversation of one or two questions about the colours of things."""
    turns = []
    for place in range(1 + number % 2):
        thing = THINGS[(number + place) % len(THINGS)]
        colour = COLOURS[len(thing) % len(COLOURS)]
        turns += [
            {"role": "user", "content": f"Number {number}: which colour has the {thing}?"},
            {"role": "assistant", "content": f"The {thing} is {colour}."},
        ]
    return turns


def texts() -> list[str]:
    return [
        f"A {thing} may be {colour}, and that is all there is to say of it." for thing in THINGS for colour in COLOURS
    ]


def finetuning_config(**changes: Any) -> FinetuningConfig:
    fields: dict[str, Any] = {
        "name": "colours",
        "lora": {"rank": 8, "alpha": 16},
        "context_tokens": 96,
        "batch_tokens": 4 * 96,
        "micro_batch": 2,
        "epochs": 2,
        "learning_rate": 1e-2,
        "threads_per_rank": 1,
        "validation_rows": 4,
    }
    return FinetuningConfig(**(fields | changes))


class BaseConfig(RegistrationConfig):
    """A bundle's configuration."""


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / TOKENIZER_FILE
    config = TokenizationConfig(vocabulary_size=350)
    save_tokenizer(train_tokenizer([*texts(), *(m["content"] for n in range(20) for m in messages(n))], config), path)
    return path


@pytest.fixture(scope="session")
def session_store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    torch.set_num_threads(1)
    return ArtifactStore.open(str(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tokens(session_store: ArtifactStore, tokenizer_file: Path) -> Artifact:
    """The base's tokens artifact."""

    def write(context: StageContext[StageConfig]) -> StageResult:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        documents = [[*tokenizer.encode(text).ids, 0] for text in texts()]
        for split, chosen in (("train-00000", documents[10:]), ("validation-00000", documents[:10])):
            sizes = [len(ids) for ids in chosen]
            write_token_shard(context.directory / split, chosen, [0] * len(chosen), sizes, np.dtype("<u2"))
        (context.directory / SOURCES_FILE).write_text(json.dumps(["texts"]))
        (context.directory / TOKENIZER_FILE).write_bytes(tokenizer_file.read_bytes())
        return StageResult(statistics={"vocabulary_size": 350, "end_of_text": 0})

    stage = Stage("tokenization", "tokens", 1, StageConfig, write)
    return build_stage(stage, StageConfig(), {}, session_store).artifact


@pytest.fixture(scope="session")
def base(session_store: ArtifactStore, tokens: Artifact, tokenizer_file: Path) -> Artifact:
    """The bundle of a small model, trained for a moment on the texts."""

    def write(context: StageContext[BaseConfig]) -> StageResult:
        torch.manual_seed(0)
        model = HybridLM(MODEL)
        rows = torch.tensor(np.fromfile(tokens.path("train-00000.bin"), "<u2")[: 10 * 65].reshape(10, 65).astype(int))
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(15):
            loss = model.loss(rows[:, :-1], rows[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save(model, context.directory / "model")
        (context.directory / TOKENIZER_FILE).write_bytes(tokenizer_file.read_bytes())
        return StageResult()

    stage = Stage("registration", "registration", 1, BaseConfig, write)
    return build_stage(stage, BaseConfig(model_name="tiny"), {"tokens": tokens}, session_store).artifact


@pytest.fixture(scope="session")
def conversations(session_store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A conversations artifact of 60 chats."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": messages(number)}) + "\n" for number in range(60)))
    source = {"name": "chats", "uri": f"chat+file://{path}"}
    config = ConversationsConfig.model_validate({"sources": [source], "held_out_fraction": 0.2})
    return build_stage(CONVERSATIONS, config, {}, session_store).artifact


@pytest.fixture(scope="session")
def in_this_process(process_group: tuple[Placement, ModuleType]) -> Callable[..., None]:  # noqa: F811
    """What stands for `run_streaming`: the trainer's work in this process, events handed on."""

    def run(command: Sequence[str], on_event: Callable[[dict[str, Any]], None], **ignored: Any) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "emit", lambda event, fields: on_event({"event": event, **fields}))
            try:
                code = training.train(AdapterJob.read(Path(command[-1])), *process_group, trainer.make_trainer)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        if code:
            raise ChildFailed(command, code, [])

    return run


@pytest.fixture
def here(in_this_process: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stage train in this process instead of a child."""
    monkeypatch.setattr("tasks.training.supervision.run_streaming", in_this_process)


@pytest.fixture(scope="session")
def tuned(
    session_store: ArtifactStore, base: Artifact, conversations: Artifact, in_this_process: Callable[..., None]
) -> Artifact:
    """The finetuning stage's artifact, trained without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.training.supervision.run_streaming", in_this_process)
        inputs = {"base": base, "conversations": conversations}
        return build_stage(FINETUNING, finetuning_config(), inputs, session_store).artifact
