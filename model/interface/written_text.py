"""Text out of tokens as they come: never half a character, never the beginning of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


def cut(text: str, stop_texts: Sequence[str]) -> str:
    """`text` up to the first of `stop_texts` in it."""
    found = [place for stop in stop_texts if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


class WrittenText:
    """One row's text. Tokens are decoded from the last whole character on, so that a token costs constant time."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop_texts: Sequence[str]) -> None:
        self.stopped = False
        self._decode, self._stop_texts = decode, stop_texts
        # The tokens before `_whole` are decoded for good; those from `_context` on give the ones behind their form.
        self._tokens: list[int] = []
        self._context = self._whole = 0
        self._window = ""  # text of the window that is in `_text` already
        self._text = ""  # written, not yet taken

    def add(self, token: int) -> None:
        """Take in a token; `stopped` says whether a stop text is complete."""
        self._tokens.append(token)
        window = self._decode(self._tokens[self._context :])
        # Bytes of one character come in several tokens; a bad byte in the middle stays as it is.
        self._take_in(window.rstrip(_REPLACEMENT))
        if not window.endswith(_REPLACEMENT):
            self._context, self._whole = self._whole, len(self._tokens)
            self._window = self._decode(self._tokens[self._context :])

    def take(self) -> str:
        """The text that is certain and was not taken before."""
        certain = len(self._text) if self.stopped else len(self._text) - self._possible_stop()
        taken, self._text = self._text[:certain], self._text[certain:]
        return taken

    def rest(self) -> str:
        """At the end: all that was held back."""
        self._take_in(self._decode(self._tokens[self._context :]))
        taken, self._text = self._text, ""
        return taken

    def _take_in(self, window: str) -> None:
        if self.stopped or len(window) <= len(self._window):
            return
        text = self._text + window[len(self._window) :]
        self._window = window
        self._text = cut(text, self._stop_texts)
        self.stopped = len(self._text) < len(text)

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        longest = max(map(len, self._stop_texts), default=0)
        for length in range(min(longest - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop_texts):
                return length
        return 0
