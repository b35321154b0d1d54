"""The page in a real headless browser, where there is one (playwright, and a Chromium)."""

from __future__ import annotations

import shutil

import pytest

from ray_si.report.files import write_report
from tests.report.made import HOSTILE, made_run

pytestmark = pytest.mark.slow

ESCAPED = "document.title='broken'"


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    instructions = [f"{HOSTILE[k % 5]} {k}" if k < 5 else f"Write poem {k}." for k in range(60)]
    made_run(folder / "run", instructions=instructions, outputs=HOSTILE, rejected=list(HOSTILE))
    write_report(str(folder / "run"), str(folder / "page.html"))
    return folder / "page.html"


@pytest.fixture
def page(chromium, page_file):
    """The page, open; whatever it complains of or asks the network for fails the test."""
    wrong = []
    opened = chromium.new_page(viewport={"width": 1200, "height": 900})
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on("request", lambda request: wrong.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert set(wrong) == {page_file.as_uri()}


def test_hostile_text_runs_nothing_and_is_shown_with_its_control_characters(page):
    for fold in page.query_selector_all("#list summary")[:10]:
        fold.click()
    page.wait_for_selector("#list > li:nth-child(10) .more")
    assert page.title().startswith("Run ")
    assert page.query_selector("#list img, #list script, #list b") is None
    text = page.inner_text("#list")
    assert "<img src=x onerror=" in text
    for name in ("U+0000", "U+001B", "U+202E", "U+2028"):
        assert name in text


def test_even_a_script_that_got_in_would_not_run(page_file, chromium, tmp_path):
    html = page_file.read_text()
    for hole in ("<script>" + ESCAPED + "</script>", f'<img src="x" onerror="{ESCAPED}">'):
        broken = tmp_path / "broken.html"
        broken.write_text(html.replace("<main", hole + "<main", 1))
        opened = chromium.new_page()
        opened.goto(broken.as_uri())
        opened.wait_for_timeout(200)
        assert opened.title().startswith("Run ")
        opened.close()


def test_rows_are_searched_filtered_and_paged(page):
    def found():
        return page.inner_text("#found").split()[0], len(page.query_selector_all("#list > li"))

    assert found() == ("75", 20)
    page.click("#next")
    assert "Page 2 of 4" in page.inner_text("#place")
    page.fill("#query", "POEM 17")
    assert found() == ("1", 1)
    page.fill("#query", "")
    page.select_option("#kind", "rejected")
    assert found() == ("15", 15)
    page.select_option("#reason", "keyword")
    assert found() == ("3", 3)
    page.select_option("#kind", "bare")
    page.select_option("#reason", "")
    assert found() == ("20", 20)
    page.fill("#query", "nothing holds this")
    assert found() == ("0", 0)


def test_a_row_shows_its_instances_and_where_it_comes_from(page):
    page.fill("#query", "Write poem 47.")
    page.click("#list summary")
    page.wait_for_selector("#list .more")
    text = page.inner_text("#list")
    for part in (
        "Output",
        "request seed",
        str(2**62 + 3),
        "seed_001",
        "r00000-00001-00",
        "ROUGE-L",
    ):
        assert part in text


def test_everything_can_be_reached_and_used_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "query", "kind", "reason", "A", "SUMMARY"} <= seen
    page.focus("#query")
    page.keyboard.type("poem 8.")
    page.keyboard.press("Enter")
    assert page.url.endswith("page.html")
    page.focus("#list summary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list h4 >> text=Where it comes from")


def test_light_and_dark_follow_the_reader_or_the_button(page):
    def paper():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.click("#theme")
    assert (page.inner_text("#theme"), paper()) == ("Theme: light", light)
    page.wait_for_timeout(300)  # the browser stores it in its own time
    page.reload()
    assert paper() == light
    page.click("#theme")
    assert (page.inner_text("#theme"), paper()) == ("Theme: dark", dark)
    page.emulate_media(media="print")
    assert paper() == "rgb(255, 255, 255)"


CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((c) => c / 255).map(
      (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    if (["SCRIPT", "STYLE", "OPTION", "NOSCRIPT"].includes(e.tagName)) continue;
    if (!e.getClientRects().length) continue;
    const svg = e.ownerSVGElement;
    if (svg && svg.classList.contains("sunburst")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(svg ? style.fill : style.color), light(behind(svg || e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([e.tagName, e.textContent.slice(0, 30), ratio]);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
    """WCAG 2.1, 1.4.3: a contrast of at least 4.5."""
    page.emulate_media(color_scheme=scheme)
    page.click("#list summary")
    page.wait_for_selector("#list .more")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [340, 700, 1600])
def test_no_width_makes_the_page_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for fold in page.query_selector_all("figure summary, #settings summary, #list summary")[:12]:
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_numbers_are_there(chromium, page_file):
    context = chromium.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(page_file.as_uri())
    assert "Browsing the rows needs JavaScript" in opened.inner_text("#rows")
    assert opened.is_visible("svg.sunburst, #verbs p")
    assert "75" in opened.inner_text("#funnel")
    context.close()
