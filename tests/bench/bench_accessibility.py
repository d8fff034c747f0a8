"""The report page under axe-core, in Chromium, light and dark.

axe-core comes from the npm registry (npm must be installed) and is used here only. REPORT names another page; CHROMIUM
another browser.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench.pairs import PROJECT

AXE = "4.14.1"
DEMO = (
    "featurize --model stats --dataset simulated --limit 150",
    "probe --kind linear,prior --model stats",
    "analyze report",
)
GRAVE = ("critical", "serious")


def bench_accessibility() -> dict:
    """Findings of axe-core on the report by impact, in light and dark, and each critical or serious one."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium or not shutil.which("npm"):
        return {"skipped": "needs npm, and Chromium on the path or in CHROMIUM"}
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page, script = report(Path(scratch)), axe(Path(scratch))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found: dict = {"axe": AXE}
        for scheme in ("light", "dark"):
            tab = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}).new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("body[data-shown]")
            tab.add_script_tag(content=script)
            violations = tab.evaluate("async () => (await axe.run()).violations")
            grave = [one for one in violations if one["impact"] in GRAVE]
            lines = [f"{one['id']}: {one['help']} ({node['html'][:120]})" for one in grave for node in one["nodes"]]
            found[scheme] = {"by_impact": dict(Counter(one["impact"] for one in violations)), "grave": lines}
            print(f"{scheme}: {len(violations)} findings, {len(grave)} critical or serious", *lines, sep="\n  ")
        browser.close()
    return found


def report(scratch: Path) -> Path:
    """The page that REPORT names, or a new one of simulated data."""
    if named := os.environ.get("REPORT"):
        return Path(named).resolve()
    for line in DEMO:
        name, *words = line.split()
        package = {"probe": "probes", "analyze": "analysis"}.get(name, name)
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-m", package, *words, "--quiet"], cwd=scratch, env=environment, check=True)
    return scratch / "runs/report/index.html"


def axe(scratch: Path) -> str:
    """axe-core's script, from the npm registry."""
    subprocess.run(["npm", "pack", "--silent", f"axe-core@{AXE}"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(scratch / f"axe-core-{AXE}.tgz") as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()
