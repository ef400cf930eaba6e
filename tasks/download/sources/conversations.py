"""Chat logs as documents: `chat+file://PATH`, `chat+hf://ORG/NAME`, `chat+s3://...`, over JSONL or Parquet.

A row is one conversation, in one of three layouts that are told apart by their fields:

- OpenAI: `messages`, a list of `{"role": "user", "content": "..."}`; content may be a list of text parts, and an
  assistant's `tool_calls` become lines `name arguments`.
- ShareGPT: `conversations` (or `conversation`), a list of `{"from": "human", "value": "..."}`.
- Alpaca: `instruction`, optional `input`, `output`, and optionally `system` and `history` (pairs of texts).

The document is the turns in order, each by the chat template `ROLE: TEXT` (`template`), a blank line apart, with the
roles System, User, Assistant and Tool (`role_names`). A conversation is cut before its first bad turn (unknown role,
no text, not text), since what follows answers something that is missing: the rest is set aside with the reason, as is
the whole when fewer than `minimum_turns` remain or when nobody but one side speaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, field_validator

from tasks.download.formats import Record
from tasks.download.sources.structured_rows import Row, StructuredFiles, rows_of

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
_TURN_LISTS = ("messages", "conversations", "conversation")
_EXCERPT_CHARACTERS = 2_000


@dataclass(frozen=True)
class Turn:
    """What one side said; `defect` says why it cannot be used, and `text` is then what was found."""

    role: Role
    text: str
    defect: str | None = None


class ConversationLogs(StructuredFiles):
    """Conversations in the OpenAI, ShareGPT or Alpaca layout, one a row."""

    template: str = Field(default="{role}: {content}", description="one turn; {role} and {content} are filled in")
    separator: str = Field(default="\n\n", description="text between turns")
    role_names: dict[Role, str] = Field(
        default={"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"},
        description="how the roles are written",
    )
    minimum_turns: int = Field(default=2, ge=1, description="good turns that a conversation must begin with")

    @field_validator("template")
    @classmethod
    def _has_both_places(cls, template: str) -> str:
        if template.count("{role}") != 1 or template.count("{content}") != 1:
            raise ValueError("write {role} and {content} once each")
        return template

    @field_validator("role_names")
    @classmethod
    def _names_every_role(cls, names: dict[Role, str]) -> dict[Role, str]:
        defaults: dict[Role, str] = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
        return defaults | names

    def file_records(self, path: Path, origin: str) -> Iterator[Record]:
        for row in rows_of(path, origin):
            yield from self.conversation(row)

    def conversation(self, row: Row) -> Iterator[Record]:
        """The document of one row, and what was set aside of it."""
        if row.defect is not None:
            yield row.defect
            return
        turns = turns_of(row.value)
        if turns is None:
            yield Record(_excerpt(row.value), row.origin, "row is no conversation of a known layout")
            return
        bad = next((place for place, turn in enumerate(turns) if turn.defect is not None), len(turns))
        good, rest = turns[:bad], turns[bad:]
        reason = f"bad turn: {rest[0].defect}" if rest else None
        if not turns:
            yield Record(_excerpt(row.value), row.origin, "conversation without turns")
        elif len(good) >= self.minimum_turns and {"user", "assistant"} <= {turn.role for turn in good}:
            yield Record(self.written(good), row.origin)
            if rest:
                yield Record(self.written(rest), f"{row.origin}#{bad}", reason)
        else:
            yield Record(self.written(turns), row.origin, reason or "conversation too short or of one side only")

    def written(self, turns: list[Turn]) -> str:
        """The turns by the template."""
        before, _, after = self.template.partition("{content}")
        return self.separator.join(
            before.replace("{role}", self.role_names[turn.role])
            + turn.text
            + after.replace("{role}", self.role_names[turn.role])
            for turn in turns
        )


def turns_of(value: Mapping[str, Any]) -> list[Turn] | None:
    """The turns of a row; None when its layout is unknown."""
    for name in _TURN_LISTS:
        if isinstance(value.get(name), list):
            return [_turn(item) for item in value[name]]
    if "instruction" in value and "output" in value:
        return list(_alpaca_turns(value))
    return None


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict):
        return Turn("user", str(item)[:_EXCERPT_CHARACTERS], "not an object")
    name = item.get("role", item.get("from"))
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    text, defect = _content(item)
    if role is None:
        return Turn("user", text, "unknown role")
    return Turn(role, text, defect)


def _content(item: Mapping[str, Any]) -> tuple[str, str | None]:
    """A turn's text and what is wrong with it."""
    content = item.get("content", item.get("value"))
    calls = item.get("tool_calls")
    parts: list[str] = []
    if isinstance(content, str):
        parts.append(content.strip())
    elif isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(text, str) for text in texts):
            return _excerpt(item), "a part that is not text"
        parts += [str(text).strip() for text in texts]
    elif content is not None:
        return _excerpt(item), "not text"
    if isinstance(calls, list):
        parts += [_call(call) for call in calls]
    text = "\n".join(part for part in parts if part)
    return text, None if text else "no text"


def _call(call: Any) -> str:
    """`name arguments` of a tool call."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    if not isinstance(function, dict):
        return ""
    arguments = function.get("arguments", "")
    written = arguments if isinstance(arguments, str) else _json(arguments)
    return f"{function.get('name') or ''} {written}".strip()


def _alpaca_turns(value: Mapping[str, Any]) -> Iterator[Turn]:
    if value.get("system"):
        yield _text_turn("system", value["system"])
    history = value.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        sides = pair if isinstance(pair, list) and len(pair) == 2 else [pair, None]
        yield _text_turn("user", sides[0])
        yield _text_turn("assistant", sides[1])
    instruction, extra = value["instruction"], value.get("input")
    if isinstance(instruction, str) and isinstance(extra, str) and extra.strip():
        instruction = f"{instruction.strip()}\n\n{extra.strip()}"
    yield _text_turn("user", instruction)
    yield _text_turn("assistant", value["output"])


def _text_turn(role: Role, text: Any) -> Turn:
    if not isinstance(text, str):
        return Turn(role, "" if text is None else _json(text)[:_EXCERPT_CHARACTERS], "not text")
    return Turn(role, text.strip(), None if text.strip() else "no text")


def _excerpt(value: Mapping[str, Any]) -> str:
    return _json(dict(value))[:_EXCERPT_CHARACTERS]


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        return "(nested too deeply to show)"
