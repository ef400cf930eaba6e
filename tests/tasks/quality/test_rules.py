"""Measures agree with plain Python; rules and score do what their names say."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

from pytest import approx, mark

from tasks.quality import words
from tasks.quality.config import CODE, PROSE, ProfanityConfig, QualityConfig
from tasks.quality.judgement import judge
from tasks.quality.measures import measure
from tasks.quality.rules import broken_rule, quality_score

prose = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["prose"]


def measured(text: str) -> dict[str, float]:
    return measure(["something else first. " * 20, text, "and after"]).of(1)


def test_measures_of_a_text_do_not_depend_on_its_batch() -> None:
    texts = [prose(number) for number in range(5)]
    together = measure(texts)
    for index, text in enumerate(texts):
        assert together.of(index) == approx(measure([text]).of(0))


def test_counts_against_plain_python() -> None:
    text = "The cat saw the cat.\n- and a list\n\n  The cat saw the cat.  \nwait...\nsee http://x.org # end\n"
    m = measured(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert m["words"] == 19
    assert m["duplicate_lines"] == approx(1 / len(lines))
    assert m["duplicate_line_characters"] == approx(20 / sum(map(len, lines)))
    assert m["terminal_lines"] == approx(3 / len(lines))
    assert m["bullet_lines"] == approx(1 / len(lines))
    assert m["ellipsis_lines"] == approx(1 / len(lines))
    assert m["symbols_per_word"] == approx(2 / m["words"])
    assert m["links_per_word"] == approx(1 / m["words"])
    assert m["stop_words"] == 2
    assert m["longest_line_characters"] == max(map(len, lines))


def test_repetition_shares() -> None:
    m = measured("abcd efgh " * 30)
    assert m["top_2gram"] == approx(30 * 8 / 240)
    assert m["duplicate_5grams"] > 0.8
    assert measured(" ".join(f"w{n}" for n in range(60)))["duplicate_5grams"] == 0


@mark.parametrize(
    ("text", "reason"),
    [
        ("only a few words of the text", "too few words"),
        ("x1 " * 80, "unusual word length"),
        (" ".join(f"word{n}" for n in range(80)), "too few stop words"),
        (prose(3) + "\n" + prose(3), "repeated lines"),
        (prose(4) + "\n{ color: red }", "braces in prose"),
        (prose(5) + "\nLorem ipsum dolor sit amet.", "placeholder text"),
        ("\n".join(f"- {line}" for line in prose(6).splitlines()), "mostly bullet points"),
        (prose(7).replace(".", "..."), "mostly cut-off lines"),
    ],
)
def test_each_rule_names_itself(text: str, reason: str) -> None:
    broken = broken_rule(measured(text), text, PROSE)
    assert broken is not None
    assert broken[0] == reason


def test_good_prose_and_code_pass_their_own_rules() -> None:
    code = inspect.getsource(words)
    assert broken_rule(measured(prose(8)), prose(8), PROSE) is None
    assert broken_rule(measured(code), code, CODE) is None
    assert broken_rule(measured(code + "{}"), code + "{}", CODE) is None
    assert broken_rule(measured(code + "{}"), code + "{}", PROSE) is not None


def test_the_score_ranks_prose_above_noise() -> None:
    noise = " ".join(f"{n}.{n}|{n * 7}" for n in range(200))
    assert 0 <= quality_score(measured(noise)) < 0.5 < quality_score(measured(prose(9))) <= 1


def reason_of(text: str, config: QualityConfig | None = None) -> str | None:
    (verdict,) = judge([text], ["mine"], config or QualityConfig())
    return verdict.reason


def test_profanity_is_judged_by_density() -> None:
    assert reason_of(prose(1) + "\nWell shit, he said.") is None
    assert reason_of(prose(1) + "\nWell shit, he said, what the fuck is it.") == "profanity"
    gentle = QualityConfig(profanity=ProfanityConfig(maximum_share=0.5))
    assert reason_of(prose(1) + "\nWell shit, he said, what the fuck is it.", gentle) is None


def test_language_spam_and_contact_lists() -> None:
    german = "Der alte Leuchtturm stand am Ende der Straße, und seit zwanzig Jahren hatte niemand in ihm gewohnt.\n"
    german += "Jeden Morgen ging die Frau mit einem Korb in der Hand zum Fluss hinunter und sah den Schiffen nach.\n"
    loose = QualityConfig(rule_sets={**QualityConfig().rule_sets, "prose": CODE})
    assert reason_of(german + "Wer ihn sah, dachte an das Meer und an die Schiffe.", loose) == "other language"
    assert reason_of("Act now, buy now and order now, they all said.\n" + prose(2)) == "spam: sales phrases"
    contacts = "\n".join(
        line.replace("road", f"road of person{n}@mail{n}.example").replace("e ", f"e b{n}@c{n}.example ", 1)
        for n, line in enumerate(prose(11).splitlines())
    )
    assert reason_of(contacts) == "personal data: density"
