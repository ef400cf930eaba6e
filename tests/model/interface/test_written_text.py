from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model.interface.written_text import WrittenText, cut

REPLACEMENT = "\ufffd"


def decode(tokens: object) -> str:
    """A byte-level tokenizer's decoder."""
    return bytes(tokens).decode("utf-8", errors="replace")  # type: ignore[call-overload]


def pieces(tokens: list[int], stop_texts: list[str]) -> tuple[list[str], bool]:
    written = WrittenText(decode, stop_texts)
    taken = []
    for token in tokens:
        written.add(token)
        taken.append(written.take())
        if written.stopped:
            break
    return [*taken, written.rest()], written.stopped


texts = st.text("abß漢 ", max_size=30).map(lambda text: list(text.encode()))
damaged = st.lists(st.integers(0, 255), max_size=30)
stops = st.lists(st.text("abß漢", min_size=1, max_size=4), max_size=3)


@given(
    texts | damaged | st.tuples(texts, damaged, texts).map(lambda parts: [byte for part in parts for byte in part]),
    stops,
)
def test_pieces_are_the_text_before_the_first_stop_text(tokens: list[int], stop_texts: list[str]) -> None:
    given_pieces, stopped = pieces(tokens, stop_texts)
    whole = decode(tokens)
    assert "".join(given_pieces) == cut(whole, stop_texts)
    assert stopped == any(stop in whole for stop in stop_texts)


@given(texts)
def test_text_is_given_as_soon_as_its_characters_are_whole(tokens: list[int]) -> None:
    given_pieces, _ = pieces(tokens, [])
    for count in range(1, len(tokens) + 1):
        assert "".join(given_pieces[:count]) == decode(tokens[:count]).rstrip(REPLACEMENT)


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_decided() -> None:
    assert pieces(list(b"one\n\ntwo"), ["\n\n\n"])[0] == ["o", "n", "e", "", "", "\n\nt", "w", "o", ""]
    assert pieces(list(b"one\n\n"), ["\n\n\n"])[0] == ["o", "n", "e", "", "", "\n\n"]
    assert pieces(list(b"aab"), ["ab"]) == (["", "a", "", ""], True)
