"""The evaluation of tuned models: answers before and after, what was forgotten, replies, and the gates.

Files: `evaluation.json`, the same for the same models and configuration. Its artifact is of the kind `evaluation`, as
the base's is, so reports and the registry read its gates the same way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.storage.local import atomic_file
from model import HybridLM, generate
from tasks.evaluation.gates import all_passed, judge
from tasks.evaluation.held_out import choose_documents
from tasks.evaluation.inputs import EvaluationInputs, open_inputs
from tasks.evaluation.perplexity import measure_perplexity
from tasks.evaluation.scoring import InterfaceScorer
from tasks.finetuning.chat_template import ChatTemplate
from tasks.finetuning.config import ChatEvaluationConfig
from tasks.finetuning.conversations import HELD_OUT_FILE, read_conversations
from tasks.finetuning.encoding import ConversationEncoder, EncodedConversation, chat_tokenizer
from tasks.finetuning.stage import template_of_base
from tasks.tokenization import TOKENIZER_FILE

RESULTS_FILE = "evaluation.json"
_BEFORE, _AFTER = "before", "after"
Figures = dict[str, Any]
Messages = list[dict[str, str]]


def evaluate(context: StageContext[ChatEvaluationConfig]) -> StageResult:
    """Measure the `base` and the `tuned` model alike, then judge.

    Inputs: `base`, `tuned` (with `model/`), `conversations`, and `tokens`, the base's own, for what was forgotten.
    """
    chats = _Chats(context)
    results: dict[str, Figures] = {}
    for number, (name, role) in enumerate(((_BEFORE, "base"), (_AFTER, "tuned"))):
        finished = context.shards.statistics(name)
        if finished is None:
            context.report(number / 2, f"evaluating the {role} model", None)
            finished = _measure(context, context.inputs[role], chats)
            context.shards.finish(name, [], finished)
        results[name] = finished
    return _conclude(context, results, chats)


STAGE: Stage[ChatEvaluationConfig] = Stage("chat-evaluation", "evaluation", 1, ChatEvaluationConfig, evaluate)


class _Chats:
    """The held-out conversations, as the base's template writes them."""

    def __init__(self, context: StageContext[ChatEvaluationConfig]) -> None:
        config, base = context.config, context.inputs["base"]
        end_of_text = str(context.inputs["tuned"].manifest.config["end_of_text"])
        self.tokenizer: Tokenizer = chat_tokenizer(base.path(TOKENIZER_FILE))
        self.template: ChatTemplate = template_of_base(base, end_of_text)
        every = list(read_conversations(context.inputs["conversations"].path(HELD_OUT_FILE)))
        order = np.random.default_rng(config.seed).permutation(len(every))
        self._messages = [every[number] for number in order.tolist()]
        self._limit = config.context_tokens
        self.encoded = self._choose(config.answer_tokens)
        self.questions = self._questions(config.replies, config.reply_tokens)

    def _choose(self, answer_tokens: int) -> list[EncodedConversation]:
        chosen, total = [], 0
        for one in ConversationEncoder(self.tokenizer, self.template, self._limit).encode(self._messages):
            chosen.append(one)
            total += int(one.answers[1:].sum())
            if total >= answer_tokens:
                break
        return chosen

    def _questions(self, count: int, reply_tokens: int) -> list[tuple[Messages, str, list[int]]]:
        """(messages up to the first answer, that answer, the prompt's tokens) of some conversations."""
        questions: list[tuple[Messages, str, list[int]]] = []
        for messages in self._messages:
            place = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
            asked = messages[:place]
            text = self.template.render(asked, add_generation_prompt=True)
            tokens = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(questions) < count and len(tokens) + reply_tokens <= self._limit:
                questions.append((asked, messages[place]["content"], tokens))
        return questions

    def reply(self, model: HybridLM, prompt: list[int], reply_tokens: int) -> str:
        """The model's likeliest answer."""
        ends = [int(self.tokenizer.token_to_id(token)) for token in self.template.end_of_turn]  # type: ignore[arg-type]
        (new,) = generate(model, prompt, reply_tokens, stop_tokens=tuple(ends))
        return str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _measure(context: StageContext[ChatEvaluationConfig], artifact: Artifact, chats: _Chats) -> Figures:
    config = context.config
    inputs = open_inputs({"checkpoint": artifact, "tokens": context.inputs["tokens"]})
    scorer = InterfaceScorer(inputs.interface)
    return {
        "answers": _answers(scorer, chats.encoded),
        "base_text": _base_text(inputs, scorer, config),
        "replies": [chats.reply(inputs.model, prompt, config.reply_tokens) for _, _, prompt in chats.questions],
    }


def _answers(scorer: InterfaceScorer, encoded: list[EncodedConversation]) -> Figures:
    """Loss on the answers' tokens, each given all that is before it in its conversation."""
    rows = scorer.token_nats([one.tokens for one in encoded])
    chosen = [nats[one.answers[1:] == 1] for nats, one in zip(rows, encoded, strict=True)]
    tokens = sum(len(nats) for nats in chosen)
    loss = math.fsum(float(nats.sum()) for nats in chosen) / tokens
    return {
        "conversations": len(encoded),
        "tokens": tokens,
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
    }


def _base_text(inputs: EvaluationInputs, scorer: InterfaceScorer, config: ChatEvaluationConfig) -> Figures:
    """Perplexity of the base's own held-out text."""
    corpus = choose_documents(inputs.validation, config.base_tokens, config.base_tokens, config.seed)
    text, _ = corpus.to_bytes(inputs.token_bytes)
    measured = measure_perplexity(
        scorer, corpus, len(text), inputs.separator, config.context_tokens, config.window_overlap_tokens
    )
    return {key: measured[key] for key in ("documents", "tokens", "loss", "perplexity", "bits_per_byte")}


def _conclude(context: StageContext[ChatEvaluationConfig], results: dict[str, Figures], chats: _Chats) -> StageResult:
    metrics = _metrics(results)
    verdicts = judge(context.config.gates, metrics)
    gates, passed = [row.as_row() for row in verdicts], all_passed(verdicts)
    replies = [
        {
            "question": asked[-1]["content"],
            "expected": expected,
            "before": results[_BEFORE]["replies"][number],
            "after": results[_AFTER]["replies"][number],
        }
        for number, (asked, expected, _) in enumerate(chats.questions)
    ]
    _write(context.directory / RESULTS_FILE, {**results, "metrics": metrics, "gates": gates, "replies": replies})
    comparison = [
        {
            "measured": name,
            "tokens": results[_BEFORE][key]["tokens"],
            "perplexity before": results[_BEFORE][key]["perplexity"],
            "perplexity after": results[_AFTER][key]["perplexity"],
            "ratio": results[_AFTER][key]["perplexity"] / results[_BEFORE][key]["perplexity"],
        }
        for key, name in (("answers", "held-out answers"), ("base_text", "the base's held-out text"))
    ]
    tables = {"gates": gates, "before and after": comparison} | ({"replies": replies} if replies else {})
    samples = [{"prompt": row["question"], "continuation": row["after"]} for row in replies]
    return StageResult(metrics, tables, {"gates_passed": passed, "samples": samples})


def _metrics(results: Mapping[str, Figures]) -> dict[str, float]:
    before, after = results[_BEFORE], results[_AFTER]
    return {
        "eval/answers/loss": after["answers"]["loss"],
        "eval/answers/perplexity": after["answers"]["perplexity"],
        "eval/answers/perplexity_before": before["answers"]["perplexity"],
        "eval/answers/perplexity_ratio": after["answers"]["perplexity"] / before["answers"]["perplexity"],
        "eval/forgetting/perplexity": after["base_text"]["perplexity"],
        "eval/forgetting/perplexity_before": before["base_text"]["perplexity"],
        "eval/forgetting/perplexity_ratio": after["base_text"]["perplexity"] / before["base_text"]["perplexity"],
    }


def _write(path: Path, content: Figures) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace"))
