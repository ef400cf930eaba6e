"""Needle recall: a key-value sentence hidden in real held-out text, then asked for.

A prompt reads: separator, text, "The secret code of Lisbon is 4817.", more text, "The secret code of Lisbon is"; with
its answer it is of `length` tokens. The model is right when, of N candidate values, the hidden one has the highest
likelihood as continuation: guessing gives 1/N. The in-context gain is how many nats more likely the right value
becomes through the needle, against the same prompt without it; it shows what is learned long before recall leaves
chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.evaluation.config import NeedleConfig
from tasks.evaluation.items import ItemScores, item_key
from tasks.evaluation.language_model import LanguageModel

IntArray = npt.NDArray[np.int64]
Encode = Callable[[str], list[int]]

SUBJECTS = (
    "Lisbon", "Oslo", "Prague", "Vienna", "Dublin", "Madrid", "Warsaw", "Athens", "Helsinki", "Budapest",
    "Toronto", "Nairobi", "Lima", "Havana", "Seoul", "Manila", "Jakarta", "Cairo", "Tunis", "Quito",
)  # fmt: skip
VALUES = (
    "4817", "2093", "7561", "9384", "1726", "6408", "3952", "8145", "5270", "2639",
    "9017", "4386", "7824", "1593", "6741", "3208", "8965", "5432", "2178", "7093",
    "1864", "9527", "4601", "3749", "6285", "8312", "5906", "2457", "7138", "1049",
    "9670", "4253", "3581", "6894", "8726", "5317", "2980", "7462", "1635", "9108",
)  # fmt: skip
#: Real text a prompt must have room for, in tokens.
_LEAST_TEXT_TOKENS = 8
_WILSON_Z = 1.959964  # 95%


@dataclass(frozen=True)
class NeedleQuestion:
    """One hidden fact at one length: the prompts for all depths, and the one without the needle."""

    length: int
    sample: int
    subject: str
    prompts: IntArray  # [depths, time]
    without_needle: IntArray  # [time]
    candidates: tuple[tuple[int, ...], ...]  # token ids of each value
    right: tuple[int, ...]  # index of the hidden value, for each depth


@dataclass(frozen=True)
class Cell:
    """What came of one length and depth."""

    length: int
    depth: float
    samples: int
    correct: int
    gain_nats: float

    def as_row(self) -> dict[str, Any]:
        """The cell for people, with a 95% Wilson interval of the recall."""
        low, high = wilson_interval(self.correct, self.samples)
        return {
            "length": self.length,
            "depth": self.depth,
            "samples": self.samples,
            "correct": self.correct,
            "recall": self.correct / self.samples,
            "recall_low": low,
            "recall_high": high,
            "gain_nats": self.gain_nats,
        }


def wilson_interval(correct: int, samples: int) -> tuple[float, float]:
    """95% confidence interval of a share (Wilson 1927): honest for few samples and near 0 and 1."""
    share, z2 = correct / samples, _WILSON_Z**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _WILSON_Z * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2)) / (1 + z2 / samples)
    return max(0.0, centre - half), min(1.0, centre + half)


def make_questions(
    config: NeedleConfig,
    lengths: Sequence[int],
    text: npt.NDArray[np.integer],
    separator: int,
    encode: Encode,
    seed: int,
) -> Iterator[NeedleQuestion]:
    """Questions of all lengths; the same for the same arguments.

    text: held-out tokens without separators, at least one; shorter than a prompt, it is repeated.
    Lengths with no room for the needle and some text are left out.
    """
    # The last token of an answer is predicted, not read.
    answer_tokens = max(len(encode(f" {value}")) for value in VALUES) - 1
    for length in lengths:
        for sample in range(config.samples_per_cell):
            question = _make_question(config, length, answer_tokens, sample, text, separator, encode, seed)
            if question is not None:
                yield question


def _make_question(
    config: NeedleConfig,
    length: int,
    answer_tokens: int,
    sample: int,
    text: npt.NDArray[np.integer],
    separator: int,
    encode: Encode,
    seed: int,
) -> NeedleQuestion | None:
    random = np.random.default_rng([seed, length, sample])
    subject = SUBJECTS[random.integers(len(SUBJECTS))]
    asked = encode(f" The secret code of {subject} is")
    chosen = random.choice(len(VALUES), config.candidates, replace=False)
    # Encoded apart from the sentence, so that needle and candidates are token for token alike.
    candidates = tuple(tuple(encode(f" {VALUES[index]}")) for index in chosen)
    # Another value at each depth: a model that merely likes some value must not score alike at all of them.
    right = tuple(int(index) for index in random.integers(config.candidates, size=len(config.depths)))
    room = length - answer_tokens - 1 - len(asked)
    start = int(random.integers(max(1, len(text) - room)))
    haystack = np.take(text, np.arange(start, start + room), mode="wrap").tolist()
    rows = []
    for depth, index in zip(config.depths, right, strict=True):
        needle = [*asked, *candidates[index], *encode(".")]
        if room - len(needle) < _LEAST_TEXT_TOKENS:
            return None
        place = round(depth * (room - len(needle)))
        rows.append([separator, *haystack[:place], *needle, *haystack[place : room - len(needle)], *asked])
    without = [separator, *haystack, *asked]
    return NeedleQuestion(length, sample, subject, np.array(rows), np.array(without), candidates, right)


@dataclass(frozen=True)
class Answers:
    """What a model made of the questions of one length; correct and gains [questions, depths]."""

    questions: Sequence[NeedleQuestion]
    depths: Sequence[float]
    correct: npt.NDArray[np.bool_]
    gains: npt.NDArray[np.float64]  # nats

    def cells(self) -> list[Cell]:
        """One for each depth."""
        length, count = self.questions[0].length, len(self.questions)
        return [
            Cell(length, depth, count, int(self.correct[:, column].sum()), float(self.gains[:, column].mean()))
            for column, depth in enumerate(self.depths)
        ]

    def item_keys(self) -> list[str]:
        """What each answer's question is known by, in the order of `correct`, row by row."""
        return [
            item_key(str(question.length), str(depth), question.subject, str(question.sample))
            for question in self.questions
            for depth in self.depths
        ]


def answer(model: LanguageModel, config: NeedleConfig, questions: Sequence[NeedleQuestion]) -> Answers:
    """Put all questions of one length to the model."""
    with_needle = np.concatenate([question.prompts for question in questions])
    without = np.stack([question.without_needle for question in questions])
    candidates = [question.candidates for question in questions]
    right = np.array([question.right for question in questions])
    repeated = [values for values in candidates for _ in config.depths]
    nats = model.candidate_nats(with_needle, repeated).reshape(len(questions), len(config.depths), -1)
    plain = np.take_along_axis(model.candidate_nats(without, candidates), right, axis=1)
    gains = plain - np.take_along_axis(nats, right[:, :, None], axis=2)[..., 0]
    return Answers(questions, config.depths, nats.argmin(axis=2) == right, gains)


def ask(model: LanguageModel, config: NeedleConfig, questions: Sequence[NeedleQuestion]) -> list[Cell]:
    """Put all questions of one length to the model; one cell for each depth."""
    return answer(model, config, questions).cells()


def needle_items(answers: Sequence[Answers]) -> ItemScores:
    """1 for each value recalled, 0 for others; comparable with another evaluation on the same held-out text."""
    keys = tuple(key for one in answers for key in one.item_keys())
    values = np.array([hit for one in answers for hit in one.correct.ravel()], np.float64)
    return ItemScores("needle", "recall", True, keys, values, np.ones(len(keys)))


def pool(cells: Sequence[Cell]) -> Cell:
    """All cells as one; its depth is not a number."""
    samples = sum(cell.samples for cell in cells)
    gain = sum(cell.gain_nats * cell.samples for cell in cells) / samples
    return Cell(max(cell.length for cell in cells), math.nan, samples, sum(cell.correct for cell in cells), gain)
