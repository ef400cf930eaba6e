"""A small Mamba-2 hybrid that has seen the questions' language, ours and in Hugging Face form; and small data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from model import HybridLM, ModelConfig, save
from model.exports.hugging_face import save_hugging_face
from model.interface import ModelInterface, open_model

SEPARATOR = "<|endoftext|>"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "eval-data"

ROWS = {
    "mmlu/test": [
        {"question": f"What is {a} plus {b}?", "choices": [str(a + b + d) for d in (-1, 0, 2, 5)], "answer": 1,
         "subject": ("elementary_mathematics", "all")[a % 2]}
        for a in range(8) for b in range(2)
    ],
    "mmlu/dev": [
        {"question": "What is 9 plus 9?", "choices": ["17", "18", "19", "20"], "answer": 1, "subject": subject}
        for subject in ("elementary_mathematics", "all")
    ],
    "hellaswag/validation": [
        {"activity_label": "Cooking", "ctx_a": "A man is in a kitchen.", "ctx_b": "he", "label": str(n % 4),
         "endings": [f"takes {n} eggs.", "flies away.", "reads [title] a book.", "sleeps in the soup."]}
        for n in range(8)
    ],
    "arc_easy/test": [
        {"question": f"Which is larger than {n}?", "answerKey": "B",
         "choices": {"text": [str(n), str(n + 3), "none"], "label": ["A", "B", "C"]}}
        for n in range(8)
    ],
    "arc_challenge/test": [
        {"question": "What do plants need?", "answerKey": "1",
         "choices": {"text": ["light", "a good book"], "label": ["1", "2"]}}
    ],
    "truthfulqa/validation": [
        {"question": "What happens if you swallow a seed?",
         "mc1_targets": {"choices": ["It passes through you", "A tree grows in you"], "labels": [1, 0]}}
    ],
    "piqa/validation": [
        {"goal": f"open jar {n}", "sol1": "turn the lid", "sol2": f"turn the jar {n} and wait", "label": n % 2}
        for n in range(10)
    ],
    "winogrande/validation": [
        {"sentence": f"Ann gave Bob {n} keys because _ was leaving.", "option1": "Ann", "option2": "Bob", "answer": "1"}
        for n in range(6)
    ],
    "boolq/validation": [
        {"passage": "Water boils at one hundred degrees.", "question": "does water boil", "label": n % 2, "idx": n}
        for n in range(6)
    ],
    "gsm8k/test": [
        {"question": f"Ann has {n} apples and gets {n}. How many?", "answer": f"{n} + {n}.\n#### {2 * n}"}
        for n in range(2, 10)
    ],
    "gsm8k/train": [
        {"question": f"Bob has {n} pens and gives one away. How many?", "answer": f"{n} - 1.\n#### {n - 1}"}
        for n in range(3, 12)
    ],
    "humaneval/test": [
        {"task_id": f"HumanEval/{n}", "prompt": f'def f{n}():\n    """Give {n}."""\n', "entry_point": f"f{n}",
         "test": f"def check(candidate):\n    assert candidate() == {n}\n"}
        for n in range(3)
    ],
    "wikitext/test": [
        {"page": " \n = Robert = \n \n Robert is a film actor . He had a role @-@ a small one - in 2000 . " * 8},
        {"page": " \n = Water = \n \n Water boils at 100 degrees . " * 40},
        {"page": " \n = Ice = \n \n Ice melts . "},
        {"page": " \n = Steam = \n \n Steam is water that boiled . " * 3},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """One model: behind our interface, and as a directory that transformers opens."""

    model: ModelInterface
    hugging_face: Path


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("eval-data")
    for name, rows in ROWS.items():
        path = directory / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("trained")
    text = [json.dumps(row, ensure_ascii=False) for rows in ROWS.values() for row in rows]
    tokenizer = _tokenizer(text)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = ModelConfig(
        vocabulary_size=tokenizer.get_vocab_size(), width=64, layer_count=4, pattern=("mamba2", "mamba2", "mamba2",
        "attention"), attention_heads=4, key_value_heads=2, feed_forward_width=128, mamba2_head_dim=16,
        mamba2_state_size=16, maximum_context=512,
    )  # fmt: skip
    model = _train(config, [token for document in text for token in [0, *tokenizer.encode(document).ids]])
    save(model, directory / "ours")
    save_hugging_face(model, directory / "hf", directory / "tokenizer.json")
    return Trained(open_model(directory / "ours"), directory / "hf")


def _tokenizer(text: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=[SEPARATOR], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def _train(config: ModelConfig, stream: list[int]) -> HybridLM:
    """Some updates: enough that likelihoods differ between right and wrong."""
    torch.manual_seed(0)
    model = HybridLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.tensor(stream)
    for _ in range(40):
        starts = torch.randint(len(tokens) - 65, (8,))
        rows = torch.stack([tokens[start : start + 65] for start in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
