"""The report: complete, self-contained, honest about what is missing, and safe to open."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.reporting import RunSummary, Spend, render_report, write_report

SECTIONS = (
    "pipeline", "data", "documents", "tokenizer", "training", "evaluation", "quantization", "gates", "registration",
    "samples", "cost", "lineage", "environment",
)  # fmt: skip


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def html(summary: RunSummary) -> str:
    return render_report(summary)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_has_every_section(page: Page) -> None:
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert tuple(sections) == SECTIONS
    assert "The model passed all 3 gates" in page.text
    assert "1.872 bits per byte on held-out text, 11.4% below the best baseline (token 5-gram, 2.114)." in page.text


def test_loads_nothing_from_anywhere(html: str, page: Page) -> None:
    assert all(source.startswith("data:") for source in page.attributes("src"))
    links = [attributes["href"] for tag, attributes in page.tags if tag != "a" and "href" in attributes]
    assert links == []
    for name in ("srcset", "poster", "data", "action", "background", "xlink:href"):
        assert page.attributes(name) == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    assert "default-src 'none'" in html


def test_hostile_text_stays_text(html: str, page: Page) -> None:
    """Scripts and pictures in documents and samples are shown, never run or loaded."""
    assert "alert(1)" in page.text and "evil.example" in page.text
    assert "evil.example" not in " ".join(page.attributes("src"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(link.startswith(("#", "http://", "https://")) for link in page.attributes("href"))
    assert "\u202e" not in html and "\x07" not in html


def test_hostile_names_stay_text(summary: RunSummary) -> None:
    evil = '"><script>x</script>'
    stages = [stage.model_copy(update={"title": evil, "error": evil}) for stage in summary.stages]
    changed = summary.model_copy(update={"run_name": evil, "profile": evil, "stages": stages, "command": evil})
    assert not any(tag == "script" for tag, _ in Page(render_report(changed)).tags)


def test_personal_data_is_masked(page: Page) -> None:
    assert "ada@example.org" not in page.text
    assert "4111" not in page.text and "Not shown: removed for what it contains." in page.text


def test_draws_the_loss_over_all_stages(page: Page) -> None:
    assert "foundation · 512" in page.text and "scaling · 1,024" in page.text and "long context" in page.text
    # Loss wide and narrow, and five small charts; each has a border between its three stages.
    assert sum(1 for tag, attributes in page.tags if tag == "line" and attributes.get("class") == "border") == 2 * 7
    assert "in 1,370 updates, 11.2M tokens" in page.text


def test_tells_the_incidents_of_training(page: Page) -> None:
    assert "2 incidents were dealt with on the way." in page.text
    assert "back to update 105, batch 119 skipped, learning rate halved" in page.text
    assert "loss spike at update 120 of scaling" in page.text
    # Both on the wide and the narrow picture of the loss.
    assert sum(1 for tag, attributes in page.tags if tag == "line" and attributes.get("class") == "incident") == 4


def test_shows_the_top_operators_and_what_a_stage_took(page: Page) -> None:
    assert "Top operators" in page.text and "aten::mm" in page.text
    for title in ("Model FLOPs utilisation", "Tokens a second", "Memory of the first rank", "Cost"):
        assert title in page.text


def test_funnel_is_counted_from_the_files(page: Page) -> None:
    assert "454 of 620 documents were kept (73.2%)" in page.text


@pytest.mark.parametrize("finished", range(10))
def test_a_run_that_stopped_anywhere_says_what_did_not_run(summary: RunSummary, finished: int) -> None:
    stages = summary.stages[:finished]
    failed = summary.stages[finished].model_copy(
        update={"manifest": None, "directory": None, "error": "StorageFull: no space left"}
    )
    partial = summary.model_copy(
        update={"stages": [*stages, failed], "status": "failed", "samples": [], "registered": None, "spend": Spend()}
    )
    page = Page(render_report(partial))
    assert "The run failed before its end" in page.text
    assert "StorageFull: no space left" in page.text
    if finished < 8:
        assert "nothing may be promoted" in page.text
        assert "bits per byte on held-out text" not in page.text
    assert "Not run." in page.text


def test_missing_files_and_figures_are_not_invented(summary: RunSummary, tmp_path: Path) -> None:
    """Manifests without their files, figures and tables: a report all the same, with nothing made up."""
    bare = []
    for stage in summary.stages:
        assert stage.manifest is not None
        manifest = stage.manifest.model_copy(update={"metrics": {}, "tables": {}, "statistics": {}})
        bare.append(stage.model_copy(update={"manifest": manifest, "directory": tmp_path / "absent"}))
    page = Page(render_report(summary.model_copy(update={"stages": bare, "samples": [], "registered": None})))
    assert "its model was not judged" in page.text
    assert "No loss history was found" in page.text
    assert "documents were kept" not in page.text


def test_a_missed_gate_is_named_first(summary: RunSummary) -> None:
    stages = []
    for stage in summary.stages:
        if stage.name == "evaluation" and stage.manifest:
            gates = [*stage.manifest.tables["gates"]]
            gates[2] = {**gates[2], "verdict": "failed"}
            gates.append(
                {"metric": "eval/mmlu", "condition": "above", "threshold": 0.3, "value": None, "verdict": "not run"}
            )
            tables = {**stage.manifest.tables, "gates": gates}
            stage = stage.model_copy(update={"manifest": stage.manifest.model_copy(update={"tables": tables})})
        stages.append(stage)
    page = Page(render_report(summary.model_copy(update={"stages": stages})))
    assert "The model passed 2 of 4 gates" in page.text
    assert (
        "Not passed: eval/bits_per_byte below eval/baseline_5gram_bits_per_byte (failed); eval/mmlu above (not run)."
        in page.text
    )


def test_pictures_it_does_not_draw_itself_are_embedded(summary: RunSummary, tmp_path: Path) -> None:
    stage = summary.stages[3]
    assert stage.manifest is not None
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/merges.png").write_bytes(b"\x89PNG")
    entry = stage.manifest.files[0].model_copy(update={"path": "plots/merges.png", "size_bytes": 4})
    changed = stage.model_copy(
        update={"directory": tmp_path, "manifest": stage.manifest.model_copy(update={"files": (entry,)})}
    )
    page = Page(render_report(summary.model_copy(update={"stages": [changed]})))
    assert page.attributes("src") == ["data:image/png;base64,iVBORw=="]


@pytest.mark.browser
def test_opens_offline_in_a_browser(summary: RunSummary, tmp_path: Path) -> None:
    """Nothing but the file is asked for, every section is seen, and no width makes the page scroll sideways."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("no chromium: install Debian's package 'chromium'")
    report = tmp_path / "runs" / "report.html"
    write_report(summary, report)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(chromium), args=flags)
        for scheme, width in (("light", 1280), ("dark", 390)):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            requests: list[str] = []
            problems: list[str] = []
            tab.on("request", lambda request, seen=requests: seen.append(request.url))
            tab.on("console", lambda message, seen=problems: seen.append(message.text))
            tab.goto(report.as_uri())
            assert requests == [report.as_uri()] and problems == []
            assert all(tab.locator(f"#{name}-title").is_visible() for name in SECTIONS)
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            visible = "wide" if width > 560 else "narrow"
            assert tab.locator(f".{visible} svg").first.is_visible()
        browser.close()
