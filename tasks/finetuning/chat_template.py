"""Chat templates: how a conversation is written as one text, and which parts of it are the assistant's.

A template is Jinja, as transformers' `apply_chat_template` reads it (`chat_template.jinja`, and `chat_template` in
`tokenizer_config.json`, beside `tokenizer.json`); it is rendered here with the same settings, except that it is not
told the day's date (`strftime_now`), which would change the tokens from run to run. In this order:

- the tokenizer's own, where the base model's directory has one;
- ChatML, where the tokenizer has `<|im_start|>` and `<|im_end|>` as special tokens;
- else `PLAIN`: roles are spelled with the tokens there are (`<|user|>` on a line of its own), and an answer ends with
  the token that ends documents. No vocabulary is resized, so adapters stay adapters, the base stays whole, every
  export and runtime stops at the end of an answer, and a first question can be typed as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from model import ModelConfig
from model.exports.hugging_face.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, write_tokenizer

TEMPLATE_FILE = "chat_template.jinja"
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
ROLES = ("system", "user", "assistant", "tool")

CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
Message = Mapping[str, Any]


class UnwritableConversation(Exception):
    """A conversation that the template cannot write so that training sees what generation will; says why."""


@dataclass(frozen=True)
class Piece:
    """A part of a conversation's text; the loss is taken on answers."""

    text: str
    is_answer: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it is rendered with.

    name: own, chatml or plain. special_tokens: the template's variables, such as `bos_token`. end_of_turn: the special
    tokens any of which ends an answer. markers: texts that stand for the template's own signs.
    """

    name: str
    source: str
    special_tokens: Mapping[str, str]
    end_of_turn: tuple[str, ...]
    markers: tuple[str, ...]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text, as `apply_chat_template(tokenize=False)` gives it.

        Raises UnwritableConversation with the template's own words when it refuses the messages.
        """
        try:
            return str(
                self._compiled.render(
                    messages=messages, add_generation_prompt=add_generation_prompt, **self.special_tokens
                )
            )
        except jinja2.TemplateError as error:
            raise UnwritableConversation(f"the chat template refuses it: {error}") from error

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The text cut into answers, each with its end-of-turn token, and what is given.

        An answer is what the template writes after the text that asks for it, so training sees at every position what
        generation will. Raises UnwritableConversation where that is not so, or a turn spells one of the markers.
        """
        self._check_texts(messages)
        pieces: list[Piece] = []
        written = ""
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.render(messages[:place], add_generation_prompt=True)
            whole = self.render(messages[: place + 1])
            if not asked.startswith(written) or not whole.startswith(asked):
                raise UnwritableConversation("the chat template writes earlier turns differently as it goes on")
            answer = self._answer(whole[len(asked) :])
            pieces += [Piece(asked[len(written) :], False), Piece(answer, True)]
            written = asked + answer
        return pieces

    def _answer(self, text: str) -> str:
        """Up to and with the first end-of-turn token; what the template writes after it belongs to the next turn."""
        ends = [text.find(token) + len(token) for token in self.end_of_turn if token in text]
        if not ends:
            raise UnwritableConversation("the chat template ends no answer with a special token")
        return text[: min(ends)]

    def _check_texts(self, messages: Sequence[Message]) -> None:
        for message in messages:
            spelled = next((marker for marker in self.markers if marker in message["content"]), None)
            if spelled is not None:
                raise UnwritableConversation(f"a turn spells {spelled}, a sign of the chat template")

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise ConfigurationError(
                f"the tokenizer's chat template cannot be read: {error}.", "correct chat_template.jinja."
            ) from error


def choose_template(directory: Path, tokenizer: Tokenizer, end_of_text: str) -> ChatTemplate:
    """The template for the tokenizer in a model's directory (its files beside the weights or one directory up).

    Raises ConfigurationError when the directory's own template cannot be read.
    """
    special = special_tokens(tokenizer)
    own, variables = _own_template(directory)
    if own is not None:
        return ChatTemplate("own", own, variables, special, special)
    if all(token in special for token in CHATML_TOKENS):
        ends = {"bos_token": end_of_text, "eos_token": CHATML_TOKENS[1]}
        return ChatTemplate("chatml", CHATML, ends, (CHATML_TOKENS[1],), special)
    ends = {"bos_token": end_of_text, "eos_token": end_of_text}
    markers = (*special, *(f"<|{role}|>" for role in ROLES))
    return ChatTemplate("plain", PLAIN, ends, (end_of_text,), markers)


def special_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The texts that the tokenizer's special tokens stand for."""
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.special)


def write_chat_files(template: ChatTemplate, tokenizer_json: Path, config: ModelConfig, directory: Path) -> None:
    """`tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, as `AutoTokenizer` opens them."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer_json, directory, config, template.special_tokens.get("bos_token", ""))
    path = directory / TOKENIZER_CONFIG_FILE
    settings = json.loads(path.read_text(encoding="utf-8")) | dict(template.special_tokens)
    settings["chat_template"] = template.source  # for readers that do not know the file of its own
    _write(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    _write(directory / TEMPLATE_FILE, template.source)


def read_chat_template(directory: Path, tokenizer: Tokenizer, end_of_text: str) -> ChatTemplate:
    """The template that `write_chat_files` left."""
    return choose_template(directory, tokenizer, end_of_text)


def _own_template(directory: Path) -> tuple[str | None, dict[str, str]]:
    """The template in a directory's tokenizer files, and the special tokens by the names templates use."""
    for place in (directory, directory.parent):
        if not (place / TOKENIZER_FILE).is_file():
            continue
        settings = _settings(place / TOKENIZER_CONFIG_FILE)
        source = settings.get("chat_template")
        if (place / TEMPLATE_FILE).is_file():
            source = (place / TEMPLATE_FILE).read_text(encoding="utf-8")
        return source if isinstance(source, str) else None, _special_by_name(settings)
    return None, {}


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"'{path}' is not valid JSON: {error}.", "restore the file.") from error
    return settings if isinstance(settings, dict) else {}


def _special_by_name(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
