"""Rules name themselves; the filters after them do what their names say; the score ranks."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.quality import measures
from tasks.quality.config import CODE, PROSE, UNRULED, WEB, ClassifierConfig, ProfanityConfig, QualityConfig, RuleLimits
from tasks.quality.judgement import FILTERS, REASONS, Verdicts, judge
from tasks.quality.measures import measure
from tasks.quality.rules import LINE_FILTERS, RULES, first_broken, linear_score, quality_level, score_of_level
from tasks.text.batch import TextBatch
from tasks.text.engine import ENGINE_VARIABLE
from tasks.text.fasttext import write_model
from tasks.text.fasttext.training import TrainingSettings, train

prose = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["prose"]
SMALL = TrainingSettings(dimension=4, word_ngrams=1)
PROFANE = "Well shit, he said, what the fuck is it."


def broken(text: str, limits: RuleLimits = WEB) -> str | None:
    filters = np.array([LINE_FILTERS[limits.line_filter]], np.uint8)
    rules, _ = first_broken(measure(TextBatch.from_texts([text]), filters), {"x": limits}, ["x"], np.zeros(1, np.int64))
    return RULES[rules[0]].reason if rules[0] >= 0 else None


def score(text: str) -> float:
    return float(linear_score(measure(TextBatch.from_texts([text]), np.zeros(1, np.uint8)))[0])


def judged(texts: list[str], config: QualityConfig | None = None) -> Verdicts:
    sources = pa.chunked_array([pa.array(["mine"] * len(texts), pa.string())])
    return judge(pa.chunked_array([pa.array(texts, pa.string())]), sources, {}, config or QualityConfig())


def reason_of(text: str, config: QualityConfig | None = None) -> str:
    return REASONS[judged([text], config).reason[0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("only a few words of the text", "too few words"),
        ("x1 " * 80, "short words"),
        ("incomprehensibilities " * 80, "long words"),
        (" ".join(f"word{n}" for n in range(80)), "too few stop words"),
        ("# # # # # " + prose(1), None),
        ("# " * 40 + prose(1), "too many hash signs"),
        (prose(1).replace(" ", " ... ", 30), "too many ellipses"),
        (" ".join(f"{n}00000 of the 7777" for n in range(80)), "too few alphabetic words"),
        (prose(3) + "\n\n" + prose(3) + "\n\n" + prose(3), "repeated paragraphs"),
        (prose(3) + "\n" + prose(3), "repeated lines"),
        (prose(4) + "\n" + "and so the sea the sea the sea the sea " * 8, "repeated phrase"),
        (prose(4) + "\nI saw { color: red } there.", "braces in prose"),
        (prose(5) + "\nLorem ipsum dolor sit amet.", "placeholder text"),
        ("\n".join(f"- {line}" for line in prose(6).splitlines()), "mostly bullet points"),
        (prose(7).replace(".", "..."), "mostly cut-off lines"),
        (prose(8).replace(".\n", " "), "too few sentences"),
    ],
)
def test_each_rule_names_itself(text: str, reason: str | None) -> None:
    assert broken(text) == reason


@pytest.mark.parametrize(
    ("text", "limits", "reason"),
    [
        ("\n".join(f"part {n} of it" for n in range(40)), {"maximum_short_lines": 0.67}, "mostly short lines"),
        (
            "see the title of a chapter\n" * 9 + "It ends.",
            {"minimum_terminal_lines": 0.12},
            "lines without punctuation",
        ),
        ("One line and a bit.\n" * 2, {"maximum_repeated_line_characters": 0.01}, "lines said again"),
        ("One and two\nand a third.", {"maximum_lines_per_word": 0.1}, "mostly a list"),
        ("One line. And so on.", {"minimum_sentences": 3}, "too few sentences"),
        ("So it was.\n" * 3, {"maximum_duplicate_line_characters": 0.2}, "repeated lines"),
        ("a b c d e f g h i j k l " * 3, {"maximum_duplicate_10grams": 0.1}, "repeated passages"),
        ("x" * 120, {"maximum_mean_line_characters": 100}, "long lines"),
        ("x\n" * 30 + "x" * 120, {"maximum_line_characters": 100}, "long lines"),
        ("1 2 3 4 a", {"minimum_letters": 0.25}, "too few letters"),
    ],
)
def test_rules_one_at_a_time(text: str, limits: dict[str, float], reason: str) -> None:
    assert broken(text, UNRULED) is None
    assert broken(text, UNRULED.model_copy(update=limits)) == reason


def test_good_prose_and_code_pass_their_own_rules() -> None:
    code = inspect.getsource(measures)
    assert broken(prose(8)) is None
    assert broken(prose(8), PROSE) is None
    assert broken(code, CODE) is None
    assert broken(code + "{}", CODE) is None
    assert broken(code + "{}") is not None


def test_every_rule_has_a_filter_and_unruled_has_none() -> None:
    assert {rule.reason for rule in RULES} <= {reason for reasons in FILTERS.values() for reason in reasons}
    for rule in RULES:
        limit = rule.limit(UNRULED)
        assert limit is None or (rule.is_least and limit == 0) or rule.reason == "too many words"


def test_the_score_ranks_prose_above_noise() -> None:
    noise = " ".join(f"{n}.{n}|{n * 7}" for n in range(200))
    assert 0 <= score(noise) < 0.5 < score(prose(9)) <= 1


def test_levels_keep_the_order_of_scores() -> None:
    scores = np.linspace(-0.1, 1.1, 1001)
    levels = quality_level(scores)
    assert (np.diff(levels.astype(np.int64)) >= 0).all()
    assert (levels[0], levels[-1]) == (0, 65535)
    assert np.array_equal(quality_level(score_of_level(levels)), levels)


def test_profanity_is_judged_by_density() -> None:
    assert reason_of(prose(1) + "\nWell shit, he said.") == ""
    assert reason_of(prose(1) + "\n" + PROFANE) == "profanity"
    gentle = QualityConfig(profanity=ProfanityConfig(maximum_share=0.5))
    assert reason_of(prose(1) + "\n" + PROFANE, gentle) == ""


def test_language_spam_and_contact_lists() -> None:
    german = "Der alte Leuchtturm stand am Ende der Straße, und seit zwanzig Jahren hatte niemand in ihm gewohnt.\n"
    german += "Jeden Morgen ging die Frau mit einem Korb in der Hand zum Fluss hinunter und sah den Schiffen nach.\n"
    loose = QualityConfig(rule_sets={**QualityConfig().rule_sets, "web": CODE})
    assert reason_of(german + "Wer ihn sah, dachte an das Meer und an die Schiffe.", loose) == "other language"
    sure = QualityConfig(default_settings={"minimum_language_probability": 1.0})
    assert reason_of(prose(2), sure) == "language not certain"
    assert reason_of("Act now, buy now and order now, they all said.\n" + prose(2)) == "spam: sales phrases"
    links = "\n".join(f"{line} See https://a{n}.example/x for it." for n, line in enumerate(prose(3).splitlines()))
    strict = QualityConfig(spam={"maximum_links_per_word": 0.01})
    assert reason_of(links, strict) == "spam: links"
    contacts = "\n".join(
        line.replace("road", f"road of person{n}@mail{n}.example").replace("e ", f"e b{n}@c{n}.example ", 1)
        for n, line in enumerate(prose(11).splitlines())
    )
    assert reason_of(contacts) == "personal data: density"


def test_a_policy_may_remove_or_keep_what_it_finds() -> None:
    text = prose(12) + "\nWrite to jane.doe@mail.example about the house."
    (masked,) = judged([text]).masked_texts.values()
    assert "<EMAIL>" in masked
    assert "jane.doe" not in masked
    assert reason_of(text, QualityConfig(pii={"policies": {"email": "drop"}})) == "personal data: email"
    assert not judged([text], QualityConfig(pii={"policies": {"email": "keep"}})).masked_texts


def test_a_document_removed_later_leaves_no_masked_text() -> None:
    verdicts = judged([prose(13) + "\nAct now, buy now and order now: mail jane.doe@mail.example."])
    assert REASONS[verdicts.reason[0]] == "spam: sales phrases"
    assert not verdicts.masked_texts
    assert verdicts.masked_items[0] == 0


def test_copies_are_removed_before_the_rules_look() -> None:
    texts = pa.chunked_array([[prose(1), prose(1), prose(2)]])
    verdicts = judge(texts, pa.chunked_array([["a", "b", "a"]]), {1: 2}, QualityConfig())
    assert [REASONS[code] for code in verdicts.reason] == ["", "exact duplicate", ""]
    assert verdicts.score[1] == 2


def test_nothing_to_judge_is_judged() -> None:
    assert len(judged([]).reason) == 0
    assert REASONS[judged([""]).reason[0]] == "too short"


def test_trained_classifiers_score_and_find_spam(tmp_path: Path) -> None:
    good = [prose(n) for n in range(60)]
    bad = [f"win a prize {n} call our casino tonight and order cheap pills " * 5 for n in range(60)]
    model = train(TextBatch.from_texts(good + bad), np.repeat([0, 1], 60), ("good", "bad"), SMALL)
    path = tmp_path / "quality.bin"
    write_model(path, model)
    quality = QualityConfig(
        quality_classifier=ClassifierConfig(path=str(path), label="good"),
        rule_sets=dict.fromkeys(QualityConfig().rule_sets, UNRULED),
    )
    levels = judged([prose(71), bad[3]], quality).level
    assert levels[0] > 60_000 > 5_000 > levels[1]
    spam = quality.model_copy(
        update={"spam": quality.spam.model_copy(update={"classifier": ClassifierConfig(path=str(path), label="bad")})}
    )
    assert [REASONS[code] for code in judged([prose(71), bad[3]], spam).reason] == ["", "spam: classifier"]


def test_verdicts_are_the_same_without_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [prose(n) for n in range(4)] + [
        PROFANE * 30,
        "Bonjour " * 40,
        prose(5) + "\njane.doe@mail.example",
        "x" * 500,
    ]
    config = QualityConfig(rule_sets={**QualityConfig().rule_sets, "web": UNRULED})
    compiled = judged(texts, config)
    monkeypatch.setenv(ENGINE_VARIABLE, "numpy")
    plain = judged(texts, config)
    assert plain.masked_texts == compiled.masked_texts
    for name in ("reason", "score", "level", "language", "probability", "masked_items"):
        assert np.array_equal(getattr(plain, name), getattr(compiled, name)), name
