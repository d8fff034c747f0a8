"""Analysis: a layout of a hundred thousand samples, and how soon the report's page shows as many."""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.bench.pairs import PROJECT

ROWS, DIM, CLASSES = 100_000, 768, 19
PEER_ROWS = 20_000
PAGE_ROWS = (20_000, 100_000)


def bench_umap() -> dict:
    """Seconds, CPU seconds and peak memory of a seeded layout of 100,000 x 768 features in a process of its own, from
    imports and compilation to the end; `digest` is of the places: run again, it must be the same.
    """
    return {"rows": ROWS, "dim": DIM, "allowed": {"seconds": 300, "peak_gb": 4.0}, **_child(ROWS, "ours")}


def bench_umap_fast() -> dict:
    """As umap, with --fast: every core places points at the same time."""
    return {"rows": ROWS, "dim": DIM, **_child(ROWS, "ours", fast=True)}


def bench_umap_fit_on() -> dict:
    """As umap, with --fit-on 20000: the other 80,000 are placed among these."""
    return {"rows": ROWS, "dim": DIM, **_child(ROWS, "ours", fit_on=20_000)}


def bench_umap_against_umap_learn() -> dict:
    """Seconds of a seeded layout of 20,000 x 768 features: ours (PCA, exact neighbors) against umap-learn's own."""
    ours, peer = _child(PEER_ROWS, "ours"), _child(PEER_ROWS, "umap-learn")
    return {"rows": PEER_ROWS, "ours": ours, "peer": peer, "ratio": round(peer["seconds"] / ours["seconds"], 2)}


def bench_report_page() -> dict:
    """The report's page with 20,000 and 100,000 samples of 19 classes and two runs in Chromium, drawn without a GPU:
    its size, ms to first paint, seconds until the plot stands, until another class does, and for each step of a drag;
    medians of three openings.
    """
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        return {"skipped": "no Chromium on the path"}
    found: dict = {"allowed": {"first_paint_ms": 2000}}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for rows in PAGE_ROWS:
            file = _made_up_report(Path(folder) / f"{rows}", rows)
            opened = [_open_page(browser, file) for _ in range(3)]
            medians = {key: round(statistics.median(one[key] for one in opened), 2) for key in opened[0]}
            found[f"samples_{rows}"] = {"megabytes": round(file.stat().st_size / 1e6, 1), **medians}
        browser.close()
    return found


def _made_up_report(out: Path, rows: int) -> Path:
    """A report of made-up scores, places and locations: what is drawn does not matter here, only how much."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from helpers import make_split
    from made_runs import BIGEARTHNET, made_up, make_run

    from analysis import projection
    from analysis.contract import ViewRequest, run_view
    from analysis.report import build
    from data import paths
    from data.runs import find_runs

    rng = np.random.default_rng(0)
    for kind, skill in (("linear", 2.0), ("rf", 1.0)):
        labels, scores = made_up(BIGEARTHNET, multilabel=True, rows=rows, skill=skill)
        make_run(out, labels, scores, BIGEARTHNET, kind=kind, dataset="made-up", simulated=True)
    run = find_runs(out)[0]
    file = paths.feature_file(paths.feature_folder(out, run.dataset, run.encoder), "test")
    make_split(
        file, labels, rng.standard_normal((rows, 8), np.float32), BIGEARTHNET, dataset="made-up", simulated=True,
        ids=[f"test-{row}" for row in range(rows)], lonlat=rng.uniform((5, 45), (25, 60), (rows, 2)),
    )  # fmt: skip
    projection.project = lambda features, **_: rng.standard_normal((len(features), 2), np.float32)
    build.report_views = lambda: ["table"]
    run_view("report", ViewRequest(out=out), points=rows)
    return paths.report_folder(out) / "index.html"


def _open_page(browser, file: Path) -> dict:
    """Open the page as a reader does, choose a class, drag the plot."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    start = time.monotonic()
    page.goto(file.as_uri(), wait_until="commit")
    page.wait_for_function("Number(document.body?.dataset.shown ?? 0) > 0")
    drawn = time.monotonic() - start
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    start = time.monotonic()
    page.select_option("#class", label="Arable land")
    page.wait_for_function("Number(document.body.dataset.shown) > 1")
    chosen = time.monotonic() - start
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    start = time.monotonic()
    for step in range(10):
        page.mouse.move(box["x"] + 310 + 10 * step, box["y"] + 200)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    dragged = (time.monotonic() - start) / 10
    page.mouse.up()
    page.close()
    return {"first_paint_ms": paint, "drawn_s": drawn, "class_s": chosen, "drag_step_s": dragged}


def _child(rows: int, what: str, **options: object) -> dict:
    """A layout in a new process, so that its peak memory is its own."""
    words = [sys.executable, "-m", "tests.bench.bench_analysis", str(rows), what, json.dumps(options)]
    return json.loads(subprocess.run(words, cwd=PROJECT, check=True, capture_output=True, text=True).stdout)


def made_up_features(rows: int) -> np.ndarray:
    """Overlapping groups of unequal size in a few dozen directions, and noise in all: (rows, DIM) float16."""
    rng = np.random.default_rng(0)
    shares = np.geomspace(1, 0.02, CLASSES)
    group = rng.choice(CLASSES, rows, p=shares / shares.sum())
    places = (2.0 * rng.standard_normal((CLASSES, 40)))[group] + rng.standard_normal((rows, 40))
    features = places.astype(np.float32) @ rng.standard_normal((40, DIM), np.float32)
    features += rng.standard_normal((rows, DIM), np.float32)
    return features.astype(np.float16)


def main() -> None:
    """Lay out made-up features and print seconds (imports and compilation included), peak memory and a digest."""
    rows, what, options = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    features = made_up_features(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.monotonic(), time.process_time()
    if what == "ours":
        from analysis.projection import project

        with tempfile.TemporaryDirectory() as cache:
            points = project(features, neighbors=15, min_dist=0.1, seed=0, cache=Path(cache), **options)
    else:
        import umap

        points = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=0, n_jobs=1).fit_transform(features)
    from data.store import digest_array

    found = {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peak_gb_before": round(before / 1e6, 2),
        "digest": digest_array(np.asarray(points)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
