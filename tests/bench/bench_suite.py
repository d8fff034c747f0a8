"""Eight models on three datasets by one `featurize`, one `probe` and one `analyze compare`, killed in the middle."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py

from data import paths
from data.files import write_text
from data.store.journal import journal_lines
from tests.bench.bench_suggest import rgb_tiles
from tests.bench.pairs import PROJECT, SHARED

PAGE = PROJECT / "docs" / "results" / "suite.md"
KEPT = Path(tempfile.gettempdir()) / "frozen-earth-suite"  # data, features and runs, to look at
RANDOM = ("dinov2", "dofa", "timm:resnet18", "resnet")
MODELS = ("stats", "rcf", "galileo", "presto", *RANDOM)
DATASETS = ("eurosat", "bigearthnet", "folder")
WEIGHTS = {
    "galileo": "../shared/weights/galileo-nano",
    "presto": "../shared/weights/presto/default_model.pt",
    **dict.fromkeys(RANDOM, "random"),
}
SPLITS, MOSAICS, LIMIT, PART_ROWS = 3, 400, 36, 12
KILLED_AFTER = 11 * SPLITS  # files; then in the middle of the next set
NO_LOCATIONS = "Presto needs locations, and the mosaics have none: that pair fails, the others are made (exit code 1)."
FLAGS = (
    f"--model {','.join(MODELS)} --dataset {','.join(DATASETS)} --data-root data --variant dinov2=small,dofa=small "
    f"--weights {','.join(f'{model}={weights}' for model, weights in WEIGHTS.items())} "
    f"--limit {LIMIT} --part-rows {PART_ROWS} --batch-size {PART_ROWS} --device cpu"
)


def bench_suite() -> dict:
    """Minutes of one comparison of 24 pairs; what a kill left and a resumed run reused; docs/results/suite.md.

    SIGKILL goes to all processes of `featurize` in the middle of a set. The features must equal those of a run that was
    not killed, to the bit.
    """
    if not (SHARED / "weights" / "galileo-nano").exists():
        return {"skipped": "no shared data and weights"}
    make_data()
    for out in ("whole", "killed"):
        shutil.rmtree(KEPT / out, ignore_errors=True)
    steps = [run("featurize, not killed", f"featurize {FLAGS} --out whole")]
    steps.append(run("featurize, killed", f"featurize {FLAGS} --out killed", kill=True))
    left = {"files": len(files_of(KEPT / "killed")), "unfinished": parts_of(KEPT / "killed")}
    steps.append(run("featurize, the same command again", f"featurize {FLAGS} --out killed"))
    chosen = f"--model {','.join(MODELS)} --dataset {','.join(DATASETS)}"
    steps.append(run("probe", f"probe --kind linear,knn {chosen} --out killed"))
    steps.append(run("analyze compare", "analyze compare --out killed"))
    whole, resumed = contents(KEPT / "whole"), contents(KEPT / "killed")
    found = {
        "steps": steps,
        "left": left,
        "sets": len(whole),
        "equal": sum(whole[name] == resumed.get(name) for name in whole),
    }
    write_text(PAGE, document(found))
    if whole != resumed:
        raise AssertionError(f"only {found['equal']} of {len(whole)} files equal those of the run without a kill")
    return found


def make_data() -> None:
    """Three real datasets in one data root, a folder for each."""
    root = KEPT / "data"
    if root.exists():
        return
    root.mkdir(parents=True)
    (root / "eurosat").symlink_to(SHARED / "data" / "eurosat-ms")
    (root / "folder").symlink_to(rgb_tiles())
    tool = [sys.executable, str(SHARED / "tools" / "mosaic_bigearthnet.py"), "--count", str(MOSAICS)]
    archive = SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip"
    subprocess.run([*tool, "--zip", str(archive), "--out", str(root / "bigearthnet")], check=True)


def run(name: str, line: str, *, kill: bool = False) -> dict[str, Any]:
    """Run one command line in a process group of its own, and kill all of it in the middle where that is asked."""
    program, *words = shlex.split(line.replace("../shared", str(SHARED)))
    before, start, load = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), os.getloadavg()[0]
    with (KEPT / f"{name.replace(' ', '-')}.log").open("w+") as log:
        process = subprocess.Popen(
            [PROJECT / ".venv" / "bin" / program, *words], cwd=KEPT, stdout=log, stderr=log, start_new_session=True
        )
        while kill and process.poll() is None and not in_the_middle(KEPT / "killed"):
            time.sleep(0.02)
        if kill:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        log.seek(0)
        text = log.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code != (-signal.SIGKILL if kill else 0) and (code != 1 or text.count("failed: ") != 1):  # see NO_LOCATIONS
        raise RuntimeError(f"{line} ended with {code}:\n{text[-2000:]}")
    results = re.findall(r"  (made, \d+ files|reused|failed: .*?)  ", text)
    return {
        "name": name,
        "line": line,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "load": round(load, 1),
        "pairs": {word: sum(one.startswith(word) for one in results) for word in ("made", "reused", "failed")},
        "resuming": [found.strip() for found in re.findall(r"resuming: .*", text)],
    }


def in_the_middle(out: Path) -> bool:
    """Whether enough files are published and one part of the next is done."""
    return len(files_of(out)) >= KILLED_AFTER and 1 in parts_of(out).values()


def files_of(out: Path) -> list[Path]:
    """Published feature files."""
    return [file for folder in paths.feature_folders(out) for file in folder.glob("*.h5")]


def parts_of(out: Path) -> dict[str, int]:
    """Finished parts of every unfinished split that has one."""
    found = {str(folder.relative_to(out)): sum(1 for _ in journal_lines(folder)) for folder in out.rglob("*.parts")}
    return {name: count for name, count in found.items() if count}


def contents(out: Path) -> dict[str, str]:
    """Stored sha256 of the features, labels and ids of every file, by dataset, encoder and split."""
    found = {}
    for file in files_of(out):
        with h5py.File(file) as opened:
            found[str(file.relative_to(out))] = str(opened.attrs["checksums"])
    return found


def document(found: dict[str, Any]) -> str:
    """docs/results/suite.md."""
    left, again = found["left"], found["steps"][2]
    lines = [
        "# Eight models on three datasets, killed in the middle",
        "",
        f"Made by `python -m tests.bench --only suite` on {os.cpu_count()} CPU cores shared with other work (load "
        "average in the table). Galileo nano and Presto have their published weights, the others need none or have "
        f"random weights: this tests the pipeline, not the models. At most {LIMIT} samples per split, all with real "
        f"pixels: EuroSAT's 600 13-band tiles; {MOSAICS} multi-label mosaics of them in the layout of BigEarthNet v2; "
        f"2,000 other EuroSAT tiles in red, green and blue as a folder of GeoTIFFs. {NO_LOCATIONS}",
        "",
        "```bash",
        *dict.fromkeys(step["line"] for step in found["steps"][1:]),
        "```",
        "",
        "| Step | Seconds | CPU seconds | Load | Pairs made | Reused | Failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for step in found["steps"]:
        pairs = step["pairs"].values() if "kill" not in step["name"] or "not" in step["name"] else ("–", "–", "–")
        numbers = f"{step['seconds']} | {step['cpu_s']} | {step['load']}"
        lines.append(f"| {step['name']} | {numbers} | {' | '.join(map(str, pairs))} |")
    parts = ", ".join(
        f"{count} of {-(-LIMIT // PART_ROWS)} parts of {name}" for name, count in left["unfinished"].items()
    )
    lines += [
        "",
        f"After SIGKILL to all processes, there were {left['files']} files and {parts}. The same command again: "
        f"{again['pairs']['reused']} pairs reused, {again['pairs']['made']} made; "
        f"{'; '.join(again['resuming']) or 'no part reused'}. {found['equal']} of {found['sets']} files have the "
        "same checksums (features, labels, ids, locations) as in the run without a kill.",
    ]
    lines += [
        "",
        "Ranks over several datasets compare models with the same bands on each: a model whose default bands depend on "
        "the dataset is ranked within each dataset only; give it `--bands` to rank it over all.",
    ]
    for table in sorted((KEPT / "killed" / "analysis" / "compare").glob("*.md")):
        if "tuned" in table.name or "normalised" in table.name:
            continue
        head, *rest = table.read_text().splitlines()
        lines += ["", f"## {head.lstrip('# ')}", *rest]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(json.dumps(bench_suite(), indent=1))
