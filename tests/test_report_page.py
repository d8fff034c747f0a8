"""The report's page in a real browser: Chromium, driven by Playwright; its pictures are kept under build/screenshots.

Skipped, with the reason, where no Chromium is found: CHROMIUM names one that is not on the path.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import make_split
from made_runs import BIGEARTHNET, EUROSAT, made_up, make_run, rewrite

from analysis import figures, projection, samples
from analysis.contract import ViewRequest, run_view
from analysis.report import build
from data import paths
from data.runs import find_runs
from probes.metrics import label_matrix

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-dev")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path; install it, or name it in CHROMIUM")

SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"  # what a CI job keeps
ROWS = 120
WIDE = {"width": 1280, "height": 900}
WAIT = 20_000  # ms: a busy machine draws slowly


def make_study(out, names, *, multilabel, dataset, simulated=False):
    """Two probes' runs and the test features they were made from, with locations."""
    for kind, skill in (("linear", 2.0), ("rf", 1.0)):
        labels, scores = made_up(names, multilabel=multilabel, rows=ROWS, skill=skill)
        make_run(out, labels, scores, names, kind=kind, dataset=dataset, simulated=simulated)
    run = find_runs(out, dataset=dataset)[0]
    rng = np.random.default_rng(0)
    file = paths.feature_file(paths.feature_folder(out, run.dataset, run.encoder), "test")
    make_split(
        file, labels, rng.standard_normal((ROWS, 8)).astype(np.float32), names, dataset=dataset, simulated=simulated,
        ids=[f"test-{row}" for row in range(ROWS)], lonlat=rng.uniform((5, 45), (25, 60), (ROWS, 2)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A report of a multi-label set of nineteen long names and of a single-label one; layout and images made up."""
    folder = tmp_path_factory.mktemp("page")
    make_study(folder, BIGEARTHNET, multilabel=True, dataset="ben", simulated=True)
    make_study(folder, EUROSAT, multilabel=False, dataset="eurosat-rgb")
    rng = np.random.default_rng(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "project", lambda features, **_: rng.standard_normal((len(features), 2), np.float32))
        patch.setattr(samples, "open_samples", lambda *_, ids, **__: dict.fromkeys(ids))
        patch.setattr(samples, "picture", lambda _, name: np.full((8, 8, 3), 2 * int(name.split("-")[1]), np.uint8))
        patch.setattr(build, "report_views", lambda: ["table"])
        patch.setattr(figures, "LEAST_DPI", 60)
        patch.setattr(figures, "PRINT_DPI", 60)
        run_view("report", ViewRequest(out=folder))
    return folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser, out):
    """The page, drawn; what its console and the network saw is collected in lists of its own."""
    page = browser.new_page(viewport=WIDE)
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.set_default_timeout(WAIT)
    page.goto((paths.report_folder(out) / "index.html").as_uri())
    settled(page, 0)
    return page


@pytest.fixture(scope="module")
def one_page(browser, out):
    """One page for most tests: opening it is what takes time."""
    page = opened(browser, out)
    yield page
    page.close()


@pytest.fixture
def page(one_page):
    """The page, with everything chosen as when it was opened."""
    one_page.emulate_media(media="screen")
    if one_page.evaluate("Number(document.body.dataset.shown)") > 1:
        one_page.evaluate("scrollTo(0, 0)")
        choose(one_page, lambda: one_page.evaluate(RESET))
    return one_page


EXTENT = "document.getElementById('plot').chart.extent()"
RESET = """() => {
  const changed = new Event("change");
  for (const [id, value] of [["set", 0], ["run", 0], ["rule", 1], ["class", -1]]) {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(changed);
  }
  document.getElementById("plot").dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  for (const value of ["truth", "points"]) document.querySelector(`input[value="${value}"]`).click();
}"""


def settled(page, before):
    """Wait until what was chosen after `before` is drawn."""
    page.wait_for_function("before => Number(document.body.dataset.shown ?? 0) > before", arg=before)


def choose(page, act):
    """Do something that draws anew, and wait for it."""
    before = page.evaluate("Number(document.body.dataset.shown)")
    act()
    settled(page, before)


def keys(page):
    """What the key under the plot says, without counts: how many samples of each."""
    found = page.locator("#keys li").all_inner_texts()
    return {text.rpartition(" (")[0]: int(text.rpartition(" (")[2].rstrip(")").replace(",", "")) for text in found}


def at(page, row):
    """Where on the screen a sample lies."""
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    x, y = page.evaluate("row => document.getElementById('plot').chart.at(row)", row)
    return box["x"] + x, box["y"] + y


# -------------------------------------------------------------------------------------------- the page


def test_the_page_opens_without_a_complaint_and_asks_the_network_for_nothing(page, out):
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [page.url]
    assert page.url.startswith("file://") and sum(keys(page).values()) == ROWS
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "report.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_complaint_and_a_request_would_be_seen(browser, out, tmp_path):
    """The guard above can fail: a page that asks for a picture elsewhere is caught."""
    text = (paths.report_folder(out) / "index.html").read_text()
    folder = paths.report_folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(text.replace("<header>", '<img src="https://example.invalid/x.png"><header>', 1))
    page = opened(browser, tmp_path)
    assert page.complaints and "https://example.invalid/x.png" in page.asked
    page.close()


def test_a_class_chosen_is_drawn_against_the_rest(page, out):
    run = find_runs(out, dataset="ben")[0]
    support = run.record["per_class"]["half"][8]["support"]
    choose(page, lambda: page.select_option("#class", label=BIGEARTHNET[8]))
    assert keys(page) == {BIGEARTHNET[8]: support, "all other samples": ROWS - support}
    assert BIGEARTHNET[8] in page.inner_text("#curves-title")
    assert page.locator(".panel:visible tr.chosen th").first.inner_text() == BIGEARTHNET[8]
    # the key's names choose too
    choose(page, lambda: page.select_option("#class", label="All classes"))
    choose(page, lambda: page.get_by_role("button", name=re.compile("^Arable land")).first.click())
    assert page.locator("#class option:checked").inner_text() == "Arable land"


@pytest.mark.parametrize("number", [0, 1])
def test_right_missed_and_false_alarms_are_those_the_run_recorded(page, out, number):
    run = find_runs(out, dataset="ben")[number]
    choose(page, lambda: page.select_option("#run", label=run.kind))
    choose(page, lambda: page.select_option("#class", label="Arable land"))
    choose(page, lambda: page.get_by_text("Correct or wrong").click())
    counts = run.record["per_class"]["half"][BIGEARTHNET.index("Arable land")]
    words = {
        "true positive (TP)": "tp",
        "false negative (FN)": "fn",
        "false positive (FP)": "fp",
        "true negative (TN)": "tn",
    }
    assert keys(page) == {word: counts[key] for word, key in words.items()}


def test_the_other_dataset_has_right_and_wrong(page, out):
    run = find_runs(out, dataset="eurosat-rgb")[0]
    title = page.locator("#set option").all_inner_texts()[1]
    choose(page, lambda: page.select_option("#set", label=title))
    choose(page, lambda: page.get_by_text("Correct or wrong").click())
    right = round(run.record["metrics"]["test"]["half"]["accuracy"] * ROWS)
    assert keys(page) == {"correct": right, "wrong": ROWS - right}


def test_a_sample_pointed_at_shows_its_picture_id_labels_and_scores(page, out):
    run = find_runs(out, dataset="ben")[0]
    x, y = at(page, 0)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#sample h3")
    name = page.inner_text("#sample h3")
    predictions = run.predictions("test")
    row = predictions.ids.index(name)
    true = label_matrix(predictions.labels, len(BIGEARTHNET))[row]
    listed = page.locator("#sample ul").first.inner_text().splitlines()
    assert listed == ([label for label, has in zip(BIGEARTHNET, true, strict=True) if has] or ["none"])
    best = int(predictions.scores[row].argmax())
    score = page.locator("#sample .score").first.inner_text()
    assert BIGEARTHNET[best] in score and f"{100 * predictions.scores[row][best]:.0f} %" in score.replace("\n", " ")
    assert page.locator("#sample .picture").bounding_box()["width"] > 100
    image = page.locator("#sample .picture").evaluate("e => getComputedStyle(e).backgroundImage")
    assert image.startswith('url("data:image/webp')
    assert re.search(r"\d+\.\d{3}° N", page.inner_text("#sample"))


def test_it_opens_on_the_best_run_and_a_click_shows_the_nearest_neighbours(page, out):
    best = page.inner_text(".answer .headline")
    chosen = [page.locator(f"#{name} option:checked").inner_text() for name in ("run", "rule")]
    assert best.startswith(f"Best: {chosen[0]} on") and chosen[1] == "thresholds tuned on val"
    page.mouse.click(*at(page, 0))
    near = page.locator("#sample .near button")
    assert near.count() == 6 and near.first.locator(".picture").is_visible()
    name = near.first.get_attribute("title").partition(": ")[0]
    near.first.click()
    assert page.inner_text("#sample h3") == name != "test-0"


def test_a_lasso_counts_classes_and_saves_ids(page, out):
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    page.keyboard.down("Shift")
    for number, (x, y) in enumerate([(0, 0), (1, 0), (1, 1), (0, 1)]):
        page.mouse.move(box["x"] + 9 + x * (box["width"] - 18), box["y"] + 9 + y * (box["height"] - 18))
        page.mouse.down() if not number else None
    page.mouse.up()
    page.keyboard.up("Shift")
    assert page.inner_text("#picked-count") == f"{ROWS} samples selected"
    support = find_runs(out, dataset="ben")[0].record["per_class"]["half"][2]["support"]
    assert f"{BIGEARTHNET[2]} ({support})" in page.inner_text("#picked-classes")
    with page.expect_download() as download:
        page.click("#picked-save")
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == '"id","true","predicted"' and len(lines) == ROWS + 1 and '"test-77"' in "".join(lines)
    page.click("#picked-clear")
    assert not page.locator("#picked").is_visible()


def test_the_map_places_samples_by_their_locations(page):
    choose(page, lambda: page.get_by_text("Map", exact=True).click())
    low, high = page.evaluate(EXTENT)
    assert low[0] < 6 and high[0] > 24 and low[1] < 46 and high[1] > 59
    assert page.inner_text("#no-map") == ""


def test_a_table_sorts_by_a_column_and_back(page):
    table = page.locator(".panel:visible table.sortable").first
    column = table.locator("thead th").all_inner_texts().index("F2")

    def cells():
        return [float(text) for text in table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()]

    head = table.locator("thead th").nth(column)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending" and cells() == sorted(cells(), reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and cells() == sorted(cells())
    assert len(cells()) == len(BIGEARTHNET)
    # a class is chosen by its row, sorted or not
    row = table.locator("tbody tr").first
    choose(page, row.click)
    assert page.locator("#class option:checked").inner_text() == row.locator("th").inner_text()


def test_per_class_tables_equal_the_runs_to_the_last_digit(page, out):
    run = find_runs(out, dataset="ben")[0]
    for rule, words in (("half", "threshold 0.5"), ("tuned", "thresholds tuned on val")):
        if page.locator("#rule option:checked").inner_text() != words:
            choose(page, lambda words=words: page.select_option("#rule", label=words))
        table = page.locator(".panel:visible table.sortable").first
        header = [text.lower() for text in table.locator("thead th").all_inner_texts()]
        lines = [line.locator("th, td").all_inner_texts() for line in table.locator("tbody tr").all()]
        shown = {cells[0]: dict(zip(header, cells, strict=True)) for cells in lines}
        assert len(shown) == len(BIGEARTHNET)
        for recorded in run.record["per_class"][rule]:
            cells = shown[recorded["name"]]
            assert all(cells[key] == f"{recorded[key]:,}" for key in ("tp", "fp", "tn", "fn", "support"))
            rates = ("precision", "recall", "specificity", "f1", "f2")
            assert all(cells[key] == f"{recorded[key]:.3f}" for key in rates)


def test_it_works_by_keyboard(page):
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#sample h3")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("first => document.querySelector('#sample h3').textContent !== first", arg=first)

    def width():
        low, high = page.evaluate(EXTENT)
        return high[0] - low[0]

    before = width()
    page.keyboard.press("+")
    assert width() < 0.9 * before
    page.keyboard.press("0")
    assert width() == pytest.approx(before)
    page.keyboard.press("Escape")
    page.wait_for_selector("#sample h3", state="detached")
    # everything that can be chosen is reached by Tab, and a table is sorted by Enter
    head = page.locator(".panel:visible table.sortable").first.locator("thead th").nth(2)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"


def test_a_sample_is_found_by_its_id(page):
    page.fill("#find", "test-77")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sample h3")
    assert page.inner_text("#sample h3") == "test-77"
    page.fill("#find", "nothing like it")
    page.keyboard.press("Enter")
    assert not page.evaluate("document.getElementById('find').checkValidity()")


@pytest.mark.parametrize("case", ["one class", "43 classes", "no positives in test, no val"])
def test_awkward_runs_without_features_are_shown(case, browser, tmp_path, monkeypatch):
    names = [f"{BIGEARTHNET[k % 19]} {k}" for k in range({"one class": 1, "43 classes": 43}.get(case, 3))]
    labels, scores = made_up(names, multilabel=True, rows=40, shares=np.full(len(names), 0.3))
    run = make_run(tmp_path, labels * ("positives" not in case), scores, names)
    if "no val" in case:
        del run.record["features"]["splits"]["val"], run.record["metrics"]["val"]
        rewrite(run)
    monkeypatch.setattr(build, "report_views", lambda: ["table"])
    run_view("report", ViewRequest(out=tmp_path))
    page = opened(browser, tmp_path)
    assert page.complaints == [] and page.locator("#no-plot").is_visible()
    assert page.locator(".panel:visible table.sortable").first.locator("tbody tr").count() == len(names)
    choose(page, lambda: page.select_option("#class", label=names[-1]))
    assert names[-1] in page.inner_text("#curves-title") and page.complaints == []
    page.close()


# --------------------------------------------------------------------------------- light, dark, narrow, paper


def ground(page):
    """The page's background, as a sum of red, green and blue."""
    return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))


def test_dark_follows_the_system_and_the_button_wins(page):
    choose(page, lambda: page.emulate_media(color_scheme="dark"))
    assert ground(page) < 150
    page.screenshot(path=SCREENSHOTS / "report-dark.png")
    choose(page, lambda: page.get_by_role("button", name="Switch to light colors").click())
    assert ground(page) > 600 and page.complaints == []
    page.emulate_media(color_scheme="light")


def test_nothing_sticks_out_of_a_narrow_window(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= 390")  # plots follow a moment later
    page.screenshot(path=SCREENSHOTS / "report-narrow.png")
    page.set_viewport_size(WIDE)


def test_print_leaves_controls_out_and_keeps_tables_and_pictures(page):
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible() and not page.locator("nav").is_visible()
    assert page.locator(".panel:visible table").first.is_visible()
    assert ground(page) == 3 * 255
    assert len(page.pdf(format="A4", print_background=False)) > 20_000


def test_a_plot_that_was_hidden_shows_its_points_apart(page):
    """Its scale once stayed 0: all points in one place."""
    page.evaluate("document.querySelector('#plot').style.display = 'none'")
    page.select_option("#set", index=1)
    page.wait_for_timeout(100)
    page.evaluate("document.querySelector('#plot').style.display = ''")
    page.wait_for_timeout(300)
    wide = """() => {
        const plot = document.querySelector('#plot'), {width, height} = plot;
        const { data } = plot.getContext('2d').getImageData(0, 0, width, height);
        const drawn = [...Array(width * height).keys()].filter((k) => data[4 * k + 3]).map((k) => k % width);
        return (Math.max(...drawn.slice(0, 9e4)) - Math.min(...drawn.slice(0, 9e4))) / width;
    }"""
    assert page.evaluate(wide) > 0.3
