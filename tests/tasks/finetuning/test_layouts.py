"""Rows of every layout as turns, and what of a conversation can be used."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.finetuning.layouts import conversation_of, turns_of_row

ASKED = [("user", "Why?"), ("assistant", "Because.")]


def pairs(value: dict[str, Any]) -> list[tuple[str, str]] | None:
    turns = turns_of_row(value)
    return None if turns is None else [(turn.role, turn.text) for turn in turns]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        {"id": "1", "data": ["Why?", "Because."]},
        {"prompt": "Why?", "response": "Because."},
        {"prompt": "Why? ", "completion": " Because."},
        {"instruction": "Why?", "output": "Because."},
        {"question": "Why?", "answer": "Because."},
        # UltraChat 200k has the first prompt beside the messages.
        {
            "prompt": "Why?",
            "prompt_id": "7",
            "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
        },
    ],
)
def test_every_layout_gives_the_same_turns(row: dict[str, Any]) -> None:
    assert pairs(row) == ASKED


def test_an_unknown_layout_is_none() -> None:
    assert pairs({"text": "Why? Because."}) is None


def test_numbered_questions_become_turns_with_the_passage_in_the_first() -> None:
    row = {
        "passage": "In May 1983, she married Nikos, a composer. In November she had a daughter. ",
        "question": "question1: what happened in 1983?\nquestion2: had she children?\nquestion3: and then?",
        "answer": "possible answers for question1:\nIn May 1983, she married Nikos, In May 1983, she married Nikos, a\n"
        "possible answers for question2:\nshe had a daughter. In November she had a daughter.\n"
        "possible answers for question3:\nCANNOTANSWER CANNOTANSWER",
    }
    assert pairs(row) == [
        ("user", f"{row['passage'].strip()}\n\nwhat happened in 1983?"),
        ("assistant", "In May 1983, she married Nikos"),
        ("user", "had she children?"),
        ("assistant", "she had a daughter."),
    ]


def test_an_answer_ends_where_a_word_does() -> None:
    row = {"passage": "It was called Elmira.", "question": "question1: name?",
           "answer": "possible answers for question1:\ncalled Elmina called El"}  # fmt: skip
    assert pairs(row) == [("user", "It was called Elmira.\n\nname?"), ("assistant", "called")]


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("turns", "kept", "reason"),
    [
        ([turn("system", "s"), turn("user", "q"), turn("assistant", "a")], 3, None),
        ([turn("user", "q"), turn("assistant", "a"), turn("user", "q")], 2, None),
        ([turn("user", "q"), turn("assistant", "a"), turn("user", ""), turn("assistant", "b")], 2, "no text"),
        ([turn("user", "q"), turn("assistant", "a"), turn("assistant", "b")], 2, "two of the assistant in a row"),
        ([turn("user", "q"), turn("assistant", "a"), turn("system", "s"), turn("user", "q")], 2, "not the first"),
        ([turn("user", "q"), turn("assistant", "a"), turn("elf", "b")], 2, "unknown role"),
        ([turn("assistant", "a"), turn("user", "q")], 0, "an answer to nothing"),
        ([turn("user", "q")], 0, "without an answer"),
        ([turn("user", "q"), turn("assistant", "\ud800")], 0, "lone surrogates"),
        ([turn("user", "q"), turn("tool", "t"), turn("assistant", "a")], 3, None),
        ([], 0, "without turns"),
        (["q", "a"], 0, "not an object"),
    ],
)
def test_a_conversation_is_its_good_beginning_with_the_reason_for_the_rest(
    turns: list[Any], kept: int, reason: str | None
) -> None:
    found = turns_of_row({"messages": turns})
    assert found is not None
    conversation, why = conversation_of(found)
    assert len(conversation.turns if conversation else ()) == kept
    if reason is None:
        assert why is None
    else:
        assert why is not None
        assert reason in why


def test_the_hash_depends_on_roles_and_texts_alone() -> None:
    one, _ = conversation_of(turns_of_row({"prompt": "Why?", "response": "Because."}) or [])
    same, _ = conversation_of(turns_of_row({"data": ["Why?", "Because."]}) or [])
    other, _ = conversation_of(turns_of_row({"data": ["Why", "?Because."]}) or [])
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.hash == same.hash != other.hash
