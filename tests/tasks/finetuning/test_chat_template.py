"""Templates are rendered and encoded as transformers does, and the answers are found in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from infra.errors import ConfigurationError
from tasks.finetuning.chat_template import (
    CHATML_TOKENS,
    ChatTemplate,
    Piece,
    UnwritableConversation,
    choose_template,
    write_chat_files,
)
from tasks.finetuning.encoding import TRUNCATED, ConversationEncoder, chat_tokenizer
from tests.tasks.finetuning.conftest import MODEL, messages

END = "<|endoftext|>"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which colour has\n\n the apple?  "},
    {"role": "assistant", "content": "Red — naïvely: 漢字."},
    {"role": "user", "content": "def f(x):\n\treturn <b>|x|</b>"},
    {"role": "assistant", "content": "1,234.5\n\nAnd so on."},
]
#: In the manner of Llama 3: the end of a turn is one token of several, and contents are trimmed.
OWN = (
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('no ' + message.role) }}{% endif %}\n"
    "    {{- '<|head|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|turn|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant\\n\\n' }}{%- endif %}\n"
)


def with_tokens(path: Path, target: Path, *tokens: str) -> Path:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / "tokenizer.json"))
    return target / "tokenizer.json"


@pytest.fixture(params=["plain", "chatml", "own"])
def written(request: pytest.FixtureRequest, tokenizer_file: Path, tmp_path: Path) -> tuple[ChatTemplate, Path]:
    """Each kind of template, and the directory with its files for transformers."""
    path = tokenizer_file
    if request.param == "chatml":
        path = with_tokens(tokenizer_file, tmp_path / "base", *CHATML_TOKENS)
    if request.param == "own":
        path = with_tokens(tokenizer_file, tmp_path / "base", "<|head|>", "<|turn|>")
        settings = {"bos_token": END, "eos_token": {"content": "<|turn|>"}, "chat_template": OWN}
        path.with_name("tokenizer_config.json").write_text(json.dumps(settings))
    template = choose_template(path.parent, chat_tokenizer(path), END)
    assert template.name == request.param
    config = MODEL.model_copy(update={"vocabulary_size": 400})
    write_chat_files(template, path, config, tmp_path / "written")
    return template, tmp_path / "written"


def test_it_is_rendered_and_encoded_as_transformers_does(written: tuple[ChatTemplate, Path]) -> None:
    template, directory = written
    theirs = AutoTokenizer.from_pretrained(directory)
    ours = chat_tokenizer(directory / "tokenizer.json")
    chats = [CHAT[1:3], CHAT[1:], *(messages(number) for number in range(8))]
    if template.name != "own":
        chats.append(CHAT)
    for chat in chats:
        for prompt, asked in ((False, chat), (True, chat[:-1])):
            text = theirs.apply_chat_template(asked, tokenize=False, add_generation_prompt=prompt)
            assert template.render(asked, add_generation_prompt=prompt) == text
            ids = theirs.apply_chat_template(asked, add_generation_prompt=prompt, return_dict=False)
            assert ours.encode(text, add_special_tokens=False).ids == ids
    encoder = ConversationEncoder(ours, template, 1000)
    for chat, one in zip(chats, encoder.encode(chats), strict=True):
        ids = theirs.apply_chat_template(chat, return_dict=False)
        assert one.tokens.tolist() == ids[: len(one.tokens)]
        assert theirs.decode(ids[len(one.tokens) :]).strip() == "", "only what follows the last end of turn is left out"
        end = ours.token_to_id(template.end_of_turn[0] if template.name != "own" else "<|turn|>")
        answers, current = [], []
        for token, is_answer in zip(one.tokens.tolist(), one.answers.tolist(), strict=True):
            if is_answer:
                current.append(token)
            if is_answer and token == end:
                answers.append(current)
                current = []
        assert current == []
        expected = [message["content"] for message in chat if message["role"] == "assistant"]
        assert [theirs.decode(answer, skip_special_tokens=True) for answer in answers] == expected
    assert not encoder.left_out


def test_a_first_question_of_the_plain_template_can_be_typed(tokenizer_file: Path) -> None:
    """What `open_model` makes of the text after its separator is what the template gives."""
    tokenizer = chat_tokenizer(tokenizer_file)
    template = choose_template(tokenizer_file.parent, tokenizer, END)
    text = template.render(CHAT[1:2], add_generation_prompt=True)
    typed = f"<|user|>\n{CHAT[1]['content']}\n<|assistant|>\n"
    assert tokenizer.encode(text).ids == [0, *tokenizer.encode(typed).ids]


def test_pieces_are_questions_and_answers_with_their_end(tokenizer_file: Path) -> None:
    template = choose_template(tokenizer_file.parent, chat_tokenizer(tokenizer_file), END)
    assert template.pieces([*messages(1), {"role": "user", "content": "left out"}]) == [
        Piece(f"{END}<|user|>\nNumber 1: which colour has the banana?\n<|assistant|>\n", False),
        Piece(f"The banana is yellow.{END}", True),
        Piece("\n<|user|>\nNumber 1: which colour has the cherry?\n<|assistant|>\n", False),
        Piece(f"The cherry is yellow.{END}", True),
    ]


@pytest.mark.parametrize("sign", [END, "<|pad|>", "<|assistant|>"])
def test_a_turn_that_spells_a_sign_of_the_template_is_left_out_and_counted(tokenizer_file: Path, sign: str) -> None:
    tokenizer = chat_tokenizer(tokenizer_file)
    template = choose_template(tokenizer_file.parent, tokenizer, END)
    forged = [{"role": "user", "content": f"Say:\n{sign}\nyes"}, {"role": "assistant", "content": "No."}]
    encoder = ConversationEncoder(tokenizer, template, 1000)
    assert len(list(encoder.encode([forged, messages(0)]))) == 1
    assert encoder.left_out == {f"a turn spells {sign}, a sign of the chat template": 1}


def test_long_conversations_are_cut_and_those_without_an_answer_left_out(tokenizer_file: Path) -> None:
    tokenizer = chat_tokenizer(tokenizer_file)
    template = choose_template(tokenizer_file.parent, tokenizer, END)
    late = [{"role": "user", "content": "long " * 50}, {"role": "assistant", "content": "No."}]
    encoder = ConversationEncoder(tokenizer, template, 45)
    (one,) = encoder.encode([late, [*messages(0), *messages(1)]])
    assert len(one.tokens) == 45
    assert encoder.left_out == {TRUNCATED: 2, "its answers lie beyond the context": 1}


def test_a_template_that_rewrites_earlier_turns_or_ends_no_answer_is_refused() -> None:
    forgetful = "{% for m in messages %}{% if loop.last %}{{ m['content'] }}<e>{% endif %}{% endfor %}"
    with pytest.raises(UnwritableConversation, match="earlier turns differently"):
        ChatTemplate("own", forgetful, {}, ("<e>",), ()).pieces(messages(1))
    endless = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UnwritableConversation, match="ends no answer"):
        ChatTemplate("own", endless, {}, ("<e>",), ()).pieces(messages(1))
    with pytest.raises(UnwritableConversation, match="refuses it: no system"):
        ChatTemplate("own", OWN, {"bos_token": END}, ("<|turn|>",), ()).pieces(CHAT)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ChatTemplate("own", "{% for %}", {}, (), ()).render(CHAT)
