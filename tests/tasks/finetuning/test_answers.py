"""Rows of conversations: every answer once an epoch, nothing else learnt, nothing crossing, the same from any row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import HybridLM
from tasks.finetuning.answers import AnswerSampler, Conversations
from tasks.finetuning.encoding import EncodedConversation, write_encoded
from tests.tasks.finetuning.conftest import MODEL

CONTEXT = 64


def chats(count: int = 50) -> list[EncodedConversation]:
    generator = np.random.default_rng(3)
    made = []
    for length in generator.integers(4, CONTEXT + 1, count):
        tokens = generator.integers(1, 350, length)
        answers = (np.arange(length) >= length // 3) & (np.arange(length) % 7 > 1)
        made.append(EncodedConversation(tokens, answers.astype(np.int64)))
    return made


@pytest.fixture
def sampler(tmp_path: Path) -> AnswerSampler:
    write_encoded(chats(), tmp_path / "train", 350)
    return AnswerSampler(Conversations(tmp_path / "train"), context_tokens=CONTEXT, seed=5, stage="chat")


def test_every_answer_token_is_a_target_once_an_epoch(sampler: AnswerSampler) -> None:
    expected = sorted(
        (int(before), int(token))
        for chat in chats()
        for before, token, answer in zip(chat.tokens[:-1], chat.tokens[1:], chat.answers[1:], strict=True)
        if answer
    )
    for epoch in (0, 3):
        batch = sampler.batch(epoch * sampler.rows_per_epoch, sampler.rows_per_epoch)
        learnt = batch.targets >= 0
        found = sorted(zip(batch.tokens[learnt].tolist(), batch.targets[learnt].tolist(), strict=True))
        assert found == expected
        assert sampler.target_count(epoch * sampler.rows_per_epoch, sampler.rows_per_epoch) == len(expected)


def test_rows_are_a_pure_function_of_their_number(sampler: AnswerSampler) -> None:
    run = sampler.batch(10, 40)
    for row in (0, 7, 39):
        one = sampler.batch(10 + row, 1)
        assert torch.equal(one.tokens[0], run.tokens[row])
        assert torch.equal(one.targets[0], run.targets[row])
        assert torch.equal(one.document_ids[0], run.document_ids[row])
        assert sampler.target_count(10 + row, 1) == int((run.targets[row] >= 0).sum())
    first = sampler.batch(0, sampler.rows_per_epoch)
    second = sampler.batch(sampler.rows_per_epoch, sampler.rows_per_epoch)
    assert not torch.equal(first.tokens, second.tokens)


def test_no_conversation_crosses_a_row_and_rows_are_full(sampler: AnswerSampler) -> None:
    batch = sampler.batch(0, sampler.rows_per_epoch)
    whole = {tuple(chat.tokens.tolist()) for chat in chats()}
    for tokens, numbers in zip(batch.tokens, batch.document_ids, strict=True):
        for number in numbers.unique().tolist():
            piece = tuple(tokens[numbers == number].tolist())
            assert piece in whole or set(piece) == {0}
    assert sampler.epoch_tokens / (sampler.rows_per_epoch * CONTEXT) > 0.9


def test_packed_conversations_are_learnt_as_if_alone(sampler: AnswerSampler) -> None:
    """The loss of a packed row is that of its conversations one by one: attention and states do not cross."""
    torch.manual_seed(0)
    model = HybridLM(MODEL).eval()
    batch = sampler.batch(0, sampler.rows_per_epoch)
    row = next(r for r in range(len(batch.tokens)) if batch.document_ids[r].max() >= 2)
    tokens, targets, numbers = (part[row : row + 1] for part in (batch.tokens, batch.targets, batch.document_ids))
    with torch.no_grad():
        together = model.loss(tokens, targets, numbers) * (targets >= 0).sum()
        alone = sum(
            model.loss(tokens[:, here], targets[:, here]) * (targets[:, here] >= 0).sum()
            for here in (numbers[0] == number for number in numbers[0].unique())
        )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
