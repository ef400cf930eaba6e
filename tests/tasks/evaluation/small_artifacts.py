"""A tiny corpus, its tokenizer and a tiny checkpoint as artifacts, for the evaluation and quantization stages."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from infra.artifacts import Artifact, ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from model import HybridLM, preset, save
from tasks.tokenization import TOKENIZER_FILE
from tasks.tokenization.token_shards import SOURCES_FILE, token_dtype, write_token_shard

VOCABULARY = 320
END_OF_TEXT = 0
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "and", "then", "it", "slept", "well"]


class NoConfig(StageConfig):
    """Nothing to choose."""


def text_of(seed: int, words: int = 120) -> str:
    """Made-up sentences, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [WORDS[int(place)] for place in torch.randint(len(WORDS), (words,), generator=generator)]
    return " ".join(chosen) + "."


def write_tokens(context: StageContext[NoConfig]) -> StageResult:
    """A tokens artifact in the tokenization stage's layout."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text_of(seed) for seed in range(20)], trainer)
    tokenizer.save(str(context.directory / TOKENIZER_FILE))
    (context.directory / SOURCES_FILE).write_text(json.dumps(["made up"]))
    for split, seeds in (("train", range(20)), ("validation", range(100, 106))):
        texts = [text_of(seed) for seed in seeds]
        documents = [[*tokenizer.encode(text).ids, END_OF_TEXT] for text in texts]
        sizes = [len(text.encode()) for text in texts]
        prefix = context.directory / f"{split}-00000"
        write_token_shard(prefix, documents, [0] * len(texts), sizes, token_dtype(VOCABULARY))
    return StageResult(statistics={"end_of_text": END_OF_TEXT, "vocabulary_size": VOCABULARY})


def write_checkpoint(context: StageContext[NoConfig]) -> StageResult:
    """A model wide enough for K-quants, lightly trained so that its distribution is no longer flat."""
    torch.manual_seed(0)
    changes = {"vocabulary_size": VOCABULARY, "layer_count": 2, "layer_kinds": ("hgrn2", "attention")}
    model = HybridLM(preset("miniature-256").changed(**changes))
    tokenizer = Tokenizer.from_file(str(context.inputs["tokens"].path(TOKENIZER_FILE)))
    rows = torch.tensor([tokenizer.encode(text_of(seed)).ids[:65] for seed in range(8)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(rows[:, :-1], rows[:, 1:]).backward()
        optimizer.step()
    save(model, context.directory / "model")
    return StageResult()


TOKENS_STAGE = Stage("tokenization", "tokens", 1, NoConfig, write_tokens)
CHECKPOINT_STAGE = Stage("training", "checkpoint", 1, NoConfig, write_checkpoint)


def small_artifacts(root: Path) -> tuple[ArtifactStore, dict[str, Artifact]]:
    """A store with `tokens` and `checkpoint` in it."""
    store = ArtifactStore.open(str(root / "store"), root / "cache")
    tokens = build_stage(TOKENS_STAGE, NoConfig(), {}, store).artifact
    checkpoint = build_stage(CHECKPOINT_STAGE, NoConfig(), {"tokens": tokens}, store).artifact
    return store, {"tokens": tokens, "checkpoint": checkpoint}
