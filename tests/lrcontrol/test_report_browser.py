"""The report in a headless browser: what is drawn, what filters and keys change, on a phone and in the dark."""

import re
import shutil

import numpy as np
import pytest
from studies import study

from lrcontrol.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on the path", allow_module_level=True)

PAIRS = [("digits", "sgd"), ("digits", "adamw"), ("mnist", "sgd")]
AGENTS = ["constant", *(f"agent-{number}" for number in range(10)), "schedule:kind=cosine"]
SHOWN = 8  # the first seven and the baseline


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    random = np.random.default_rng(0)
    losses = {
        pair: {name: 0.1 + n / 10 + random.uniform(0, 0.01, (3, 4)) for n, name in enumerate(AGENTS)} for pair in PAIRS
    }
    traces = {pair: {name: random.uniform(0.1, 1.0, (3, 4, 50)) for name in AGENTS} for pair in PAIRS}
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report({"x": study(losses, forward={"agent-0": 30}, traces=traces)}, path)
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report):
    """Return a function that opens the report; anything said on the console or asked of the network fails the test."""
    contexts, said = [], []

    def open_it(path=report, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert said == []


def lines(page, section):
    return page.locator(f"#{section} path.line").count()


def visible_rows(page):
    return page.locator("#standings tr[data-task]:visible").count()


def test_every_panel_has_a_line_for_each_agent_shown(open_page):
    page = open_page()
    assert page.locator("svg").count() > 4
    assert lines(page, "final") == len(PAIRS) * SHOWN
    assert lines(page, "profile") == SHOWN
    assert lines(page, "traces") == 2 * len(PAIRS) * SHOWN
    assert lines(page, "compute") == len(PAIRS) * SHOWN
    assert page.locator("#final path.band").count() == len(PAIRS) * SHOWN
    assert visible_rows(page) == len(PAIRS) * len(AGENTS)
    for path in page.locator("path.line").all():
        assert "NaN" not in path.get_attribute("d")


def test_a_profile_is_drawn_in_steps(open_page):
    page = open_page()
    step = r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+)+"
    for path in page.locator("#profile path.line").all():
        assert re.fullmatch(step, path.get_attribute("d"))
    band = page.locator("#profile path.band").first.get_attribute("d")
    assert re.fullmatch(step + r"L[\d.]+ [\d.]+(V[\d.]+H[\d.]+)+Z", band)
    assert "H" not in page.locator("#final path.line").first.get_attribute("d")


def test_who_failed_is_seen_though_no_filter_knows_them(open_page, tmp_path):
    failure = {"task": "a", "optimizer": "sgd", "agent": "gone", "runs": [0, 1], "error": "RuntimeError: no more"}
    losses = {("a", "sgd"): {"constant": np.ones((1, 2)), "x": np.full((1, 2), 2.0)}}
    write_report({"x": study(losses, failures=[failure])}, tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert page.get_by_label("Tables: these agents only").is_checked()
    row = page.locator("#standings tr[data-task][data-agent=gone]")
    assert row.is_visible()
    page.locator("table", has_text="Each task with each optimizer").get_by_role("button", name="ratio").click()
    assert page.locator("#standings tr[data-task][data-agent]").last.get_attribute("data-agent") == "gone"
    page.locator("#list").get_by_label("x").uncheck()
    assert row.is_visible()
    assert visible_rows(page) == 2


def test_filters_change_what_is_shown(open_page):
    page = open_page()
    page.locator("#task").select_option("digits")
    assert lines(page, "final") == 2 * SHOWN
    assert visible_rows(page) == 2 * len(AGENTS)
    page.locator("#optimizer").select_option("sgd")
    assert lines(page, "final") == SHOWN
    page.get_by_label("agent-9").check()
    assert lines(page, "final") == SHOWN + 1
    page.get_by_label("Tables: these agents only").check()
    assert visible_rows(page) == SHOWN + 1
    page.get_by_role("button", name="None").click()
    assert lines(page, "final") == 0
    assert page.locator("#final .empty").is_visible()
    page.get_by_role("button", name="All", exact=True).click()
    assert lines(page, "final") == len(AGENTS)
    page.get_by_label("Bands").uncheck()
    assert page.locator("path.band").count() == 0


def test_a_legend_toggles_and_keeps_what_it_hid(open_page):
    page = open_page()
    key = page.locator(".keys").first.get_by_role("button", name="constant")
    key.click()
    assert lines(page, "final") == len(PAIRS) * (SHOWN - 1)
    assert key.get_attribute("aria-pressed") == "false"
    assert not page.locator("#list").get_by_label("constant").is_checked()
    page.keyboard.press("Enter")  # the focus stays on it
    assert lines(page, "final") == len(PAIRS) * SHOWN


def test_the_start_moves_the_traces_and_nothing_else(open_page):
    page = open_page()
    before = [page.locator(f"#{name} path.line").first.get_attribute("d") for name in ("traces", "final")]
    page.get_by_label("From initial rate").select_option("100")
    after = [page.locator(f"#{name} path.line").first.get_attribute("d") for name in ("traces", "final")]
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    assert "from lr0 = 100" in page.locator("#traces figcaption").first.inner_text()


def test_values_are_read_by_pointer_and_by_keys(open_page):
    page = open_page()
    chart, tip = page.locator("#final figure svg").first, page.locator("#final .tip").first
    assert tip.is_hidden()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 48, box["y"] + 80)
    assert tip.inner_text().startswith("lr0 1\n")
    assert box["y"] + box["height"] <= tip.bounding_box()["y"] < box["y"] + box["height"] + 20  # covers no line
    wide = page.locator("#profile figure svg")
    wide.scroll_into_view_if_needed()
    place = wide.bounding_box()
    page.mouse.move(place["x"] + 60, place["y"] + 80)
    assert place["y"] < page.locator("#profile .tip").bounding_box()["y"] < place["y"] + 60
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    assert page.locator("#profile .tip").is_hidden()
    page.locator("#list input").last.focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if chart.evaluate("node => node === document.activeElement"):
            break
    assert tip.inner_text().startswith("lr0 1\n")  # where it was left
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("lr0 10\n")
    assert "constant" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_columns_sort_within_their_groups(open_page):
    page = open_page()
    table = page.locator("table", has_text="Each task with each optimizer")
    table.get_by_role("button", name="worst start").click()
    for body in table.locator("tbody").all():
        cells = [row.locator("td").nth(4).get_attribute("data-value") for row in body.locator("tr[data-agent]").all()]
        assert [float(cell) for cell in cells] == sorted(map(float, cells))
    table.get_by_role("button", name="worst start").click()
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_a_phone_does_not_scroll_sideways(open_page):
    page = open_page(viewport={"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    wide = page.evaluate("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")
    assert wide  # tables do so in their own boxes


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_readers_scheme(open_page, scheme, dark):
    page = open_page(color_scheme=scheme)
    colours = page.evaluate(
        "['background-color', 'color'].map(name => getComputedStyle(document.body).getPropertyValue(name))"
    )
    paper, ink = (np.mean([int(part) for part in colour[4:-1].split(",")]) for colour in colours)
    assert (paper < 64, ink > 190) == (dark, dark)


def test_without_a_script_the_tables_are_there(open_page):
    page = open_page(java_script_enabled=False)
    assert visible_rows(page) == len(PAIRS) * len(AGENTS)
    assert page.locator("noscript p").is_visible()
    assert page.locator("#filters").is_hidden()


def test_names_are_never_markup_and_missing_traces_leave_their_pictures_out(open_page, tmp_path):
    evil = '<img src=x onerror="console.log(1)">'
    path = tmp_path / "evil.html"
    write_report({evil: study({(evil, evil): {"constant": np.ones((1, 2)), evil: np.full((1, 2), 2.0)}})}, path)
    page = open_page(path)
    assert page.locator("img").count() == 0
    assert page.locator("#list").get_by_text(evil).count() == 1
    assert lines(page, "final") == 2
    assert page.locator("#traces").is_hidden()
    assert page.locator("#compute").is_hidden()
