"""A tiny corpus and a tiny model of each family as artifacts, for the quantization stage."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from infra.artifacts import Artifact, ArtifactStore, Stage, StageContext, StageResult, build_stage
from model import HybridLM, ModelConfig, preset, save
from tasks.tokenization import TOKENIZER_FILE

# The tiny corpus is that of the evaluation's tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from small_artifacts import TOKENS_STAGE, VOCABULARY, NoConfig, text_of

Artifacts = tuple[ArtifactStore, dict[str, Artifact]]

#: Two layers of each family, wide enough for K-quants.
FAMILIES: dict[str, dict[str, object]] = {
    "hgrn2": {"layer_kinds": ("hgrn2", "attention")},
    "mamba2": {
        "layer_kinds": ("attention", "mamba2"), "mamba2_head_dim": 32, "mamba2_state_size": 32, "norm_eps": 1e-5,
    },
}  # fmt: skip


def small_config(family: str) -> ModelConfig:
    return preset("miniature-256").changed(vocabulary_size=VOCABULARY, layer_count=2, **FAMILIES[family])


def lightly_trained(family: str, tokenizer: Tokenizer) -> HybridLM:
    """A model whose distribution is no longer flat."""
    torch.manual_seed(0)
    model = HybridLM(small_config(family))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(25):
        # Never the same text twice: what is learned by heart tells nothing of held-out text.
        texts = [text_of(1000 + 8 * step + row) for row in range(8)]
        rows = torch.tensor([tokenizer.encode(text).ids[:65] for text in texts])
        optimizer.zero_grad()
        model.loss(rows[:, :-1], rows[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def tokens_in(store: ArtifactStore) -> Artifact:
    """The corpus."""
    return build_stage(TOKENS_STAGE, NoConfig(), {}, store).artifact


def inputs_of(store: ArtifactStore, tokens: Artifact, family: str) -> dict[str, Artifact]:
    def train(context: StageContext[NoConfig]) -> StageResult:
        tokenizer = Tokenizer.from_file(str(context.inputs["tokens"].path(TOKENIZER_FILE)))
        save(lightly_trained(family, tokenizer), context.directory / "model")
        return StageResult()

    def evaluate(context: StageContext[NoConfig]) -> StageResult:
        return StageResult({}, {}, {"gates_passed": True})

    training = Stage(f"training-{family}", "checkpoint", 1, NoConfig, train)
    checkpoint = build_stage(training, NoConfig(), {"tokens": tokens}, store).artifact
    evaluation = Stage("evaluation", "evaluation", 1, NoConfig, evaluate)
    evaluated = build_stage(evaluation, NoConfig(), {"checkpoint": checkpoint}, store).artifact
    return {"tokens": tokens, "checkpoint": checkpoint, "evaluation": evaluated}


def in_own_store(artifacts: Artifacts, root: Path) -> Artifacts:
    """The same inputs, and a store in which nothing has been made of them."""
    return ArtifactStore.open(str(root / "store"), root / "cache"), artifacts[1]
