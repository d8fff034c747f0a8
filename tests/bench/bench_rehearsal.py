"""The seminar's whole recipe on BigEarthNet v2 at its full size, step by step, as a person would run it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.card import VIEWS
from data import paths
from data.files import write_text
from tests.bench.bigearthnet_tree import DIFFERENT
from tests.bench.pairs import PROJECT, SHARED

PAGE = PROJECT / "docs" / "results" / "rehearsal.md"
WORK = Path(os.environ.get("REHEARSAL_WORK", Path(tempfile.gettempdir()) / "frozen-earth-rehearsal"))
ALL, SMALL = 480_038, 20_000
BUDGET = "10m"  # for each kind beyond the seminar's three
BOUNDS = {  # what takes the time of the steps that can be a tenth of the whole
    "featurize": "reading nine GeoTIFFs of each patch and computing their statistics",
    "probe": "the fits of `rf` and `mlp`",
    "probe knn": "comparing every patch of val and test with all of train",
    "analyze audit": "reading and hashing all pixels once more",
}
MAKE_TREE = """
import sys
from pathlib import Path
from tests.bench.bigearthnet_tree import make_tree
if __name__ == "__main__":  # its worker processes import this
    make_tree(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
"""


def bench_rehearsal(patches: int = ALL) -> dict:
    """`make seminar` with stats, the other probes, every view and the report; then `make seminar` with rcf at 20,000.

    ``--patches`` sets another number. BigEarthNet v2's real names, labels and splits over hard links to mosaics of
    real pixels. Seconds, CPU seconds, peak memory of the largest process and disk by step; the same at 20,000 patches
    for the growth; writes docs/results/rehearsal.md for all 480,038. Steps done are kept in REHEARSAL_WORK; those named
    in REHEARSAL_AGAIN, separated by commas, are run again.
    """
    if not (SHARED / "data" / "bigearthnet-v2" / "metadata.parquet").exists():
        return {"skipped": "no metadata.parquet of BigEarthNet v2; set EO_SHARED"}
    small = min(SMALL, patches)
    found = {f"{count}": _rehearse(count, "stats") for count in sorted({small, patches})}
    found["rcf"] = _rehearse(small, "rcf")
    table = _table(found[f"{patches}"], found[f"{small}"])
    if patches >= ALL:
        write_text(PAGE, _document(table, found["rcf"], patches / small))
    print(table.drop(columns="command").to_string(index=False), file=sys.stderr)
    return {
        "patches": patches,
        "seconds": round(sum(row["seconds"] for row in found[f"{patches}"][1:])),
        "peak_mb": max(row["peak_mb"] for row in found[f"{patches}"]),
        "steps": found,
    }


def _rehearse(count: int, model: str) -> list[dict[str, Any]]:
    """Figures of every step; those done before are read."""
    folder = WORK / f"{count}" / model
    folder.mkdir(parents=True, exist_ok=True)
    kept, again = folder / "steps.json", os.environ.get("REHEARSAL_AGAIN", "").split(",")
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    rows = {name: row for name, row in rows.items() if name not in again}
    tree, out = folder.parent / "tree", folder / "out"

    def step(name: str, words: list[str], place: Path) -> None:
        if name in rows:
            return
        log = folder / f"{name.replace(' ', '-')}.log"
        if log.exists() and words[0].endswith(("featurize", "probe")) and words[1].startswith("--"):
            words = [*words, "--overwrite"]  # begun before: whole figures need a whole run
        if name in ("analyze umap", "analyze seminar"):
            shutil.rmtree(paths.layout_cache(out), ignore_errors=True)
        before = _disk(out) if place == out else 0
        rows[name] = _run(words, log) | {"runs": _runs(out)} if words[0].endswith("probe") else _run(words, log)
        rows[name]["disk_mb"] = round((_disk(place) - before) / 1e6, 1)
        write_text(kept, json.dumps(rows, indent=1))
        print(json.dumps({name: rows[name]}), file=sys.stderr, flush=True)

    if model == "stats":
        step("tree", [sys.executable, "-c", MAKE_TREE, str(tree), str(count), str(SHARED)], tree)
    steps = _steps(model, tree, out)
    for name, words in steps.items():
        step(name, words, out)
    return [{"step": name} | rows[name] for name in ("tree", *steps) if name in rows]


def _steps(model: str, tree: Path, out: Path) -> dict[str, list[str]]:
    """Command lines by step: the recipe's as `make` prints them; of `stats` also all that is not in the recipe."""
    settings = {"DATA": tree, "SEMINAR_MODEL": model, "SEMINAR_OUT": out, "DEVICE": "cpu"}
    command = ["make", "--dry-run", "seminar", *(f"{name}={value}" for name, value in settings.items())]
    text = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.startswith(".venv/bin/")]
    steps = {f"{Path(line[0]).name} {'' if line[1].startswith('--') else line[1]}".strip(): line for line in lines}
    assert list(steps) == ["featurize", "probe", "analyze seminar"], text
    if model != "stats":
        return steps
    of_data, to = ["--dataset", "bigearthnet"], ["--out", str(out)]
    from_tree = ["--data-root", str(tree)]
    for kind in ("prior", "knn", "head"):
        steps[f"probe {kind}"] = [".venv/bin/probe", "--kind", kind, *of_data, "--budget", BUDGET, *to]
    more = {
        "audit": ["--bands", "s2-9", *from_tree],
        "cases": from_tree,
        "labels": from_tree,
        "similar": ["--like", _test_patch(tree), *from_tree],
        "report": from_tree,
    }
    for view in sorted(set(VIEWS.names()) - {"seminar", "report"}) + ["report"]:
        words = [".venv/bin/analyze", view, *([] if view in ("area", "speed") else of_data), *more.get(view, [])]
        steps[f"analyze {view}"] = [*words, *to]
    steps["verify"] = [".venv/bin/featurize", "verify", str(out)]
    return steps


# A process that holds nothing starts the command: a child's peak memory begins at that of the process that forks it.
WATCH = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def _run(words: list[str], log: Path) -> dict[str, Any]:
    """Run a command in a process of its own; its figures are those of all its processes."""
    load, start = os.getloadavg()[0], time.perf_counter()
    watched = [sys.executable, "-c", WATCH, *words]
    with log.open("w") as output:
        done = subprocess.run(watched, cwd=PROJECT, stdout=subprocess.PIPE, stderr=output, check=True, text=True)
    seconds, (code, cpu_s, kib) = time.perf_counter() - start, json.loads(done.stdout)
    if code not in (0, 1, 2):  # 1: an audit found something
        raise RuntimeError(f"{shlex.join(words)} ended with {code}; see {log}")
    return {
        "command": shlex.join(words),
        "seconds": round(seconds, 1),
        "cpu_s": round(cpu_s, 1),
        "peak_mb": round(kib * 1024 / 1e6),  # of the largest process
        "load_before": round(load, 1),
    } | ({"refused": log.read_text().splitlines()[-1]} if code == 2 else {})


def _disk(folder: Path) -> int:
    """Bytes on disk, hard links counted once."""
    du = ["du", "--summarize", "--block-size=1", str(folder)]
    return (
        int(subprocess.run(du, check=True, capture_output=True, text=True).stdout.split()[0]) if folder.exists() else 0
    )


def _test_patch(tree: Path) -> str:
    table = pd.read_parquet(tree / "metadata.parquet", columns=["patch_id", "split"])
    return str(table.loc[table["split"] == "test", "patch_id"].to_numpy()[0])


def _runs(out: Path) -> dict[str, Any]:
    """What the runs say of themselves, by kind."""
    found = {}
    for file in sorted(out.rglob("run.json")):
        run = json.loads(file.read_text())
        test = run["metrics"]["test"]
        found[run["kind"]] = {
            "seconds": {name: round(value, 1) for name, value in run["seconds"].items()},
            "tried": f"{len(run['candidates'])} of {len(run['arguments']['candidates'])}",
            "chosen": run["chosen"],
            "map_macro": round(test["half"]["map_macro"], 4),
            "f2_macro_tuned": round(test["tuned"]["f2_macro"], 4),
        }
    return found


def _table(rows: list[dict[str, Any]], small: list[dict[str, Any]]) -> pd.DataFrame:
    """Figures by step, and how many times larger they are than those of the small number of patches."""
    frame = pd.DataFrame(rows).set_index("step")
    frame["share"] = frame["seconds"] / frame["seconds"].drop("tree").sum()
    before = pd.DataFrame(small).set_index("step").reindex(frame.index)
    for name in ("seconds", "cpu_s", "peak_mb"):
        frame[f"{name} x"] = (frame[name] / before[name]).round(1)
    return frame.reset_index()


def _document(table: pd.DataFrame, rcf: list[dict[str, Any]], larger: float) -> str:
    """The page: what was run, figures by step and their growth, the probes, and the same with rcf."""
    rows = table.to_dict("records")
    ran = table[table["step"] != "tree"]
    lines = [
        "# The seminar's recipe at BigEarthNet's full size",
        "",
        f"Made by `python -m tests.bench --only rehearsal` on {os.cpu_count()} cores without a GPU. The names, splits "
        f"and labels of all {ALL:,} patches are those of BigEarthNet v2's own metadata; a patch is a folder of 12 "
        f"GeoTIFFs. The pixels are EuroSAT's: at most {DIFFERENT:,} mosaics of tiles that match the labels, and hard "
        "links to them, so the scores say nothing about BigEarthNet. The steps are `make seminar` with image "
        f"statistics of nine bands, three more kinds of probe with a budget of {BUDGET} each, every view, the report "
        "and `featurize verify`.",
        "",
        f"**{ran['seconds'].sum() / 60:.0f} minutes** ({ran['cpu_s'].sum() / 60:.0f} minutes of CPU time), at most "
        f"**{ran['peak_mb'].max() / 1000:.2f} GB** of memory in one process. Creating the folder tree (`tree`) is not "
        "counted.",
        "",
        f"The last three columns are ratios to the same recipe on {SMALL:,} patches, {larger:.0f} times fewer. Load: "
        "runnable processes when the step began. Other programs used the same two cores, so CPU seconds are more "
        "reliable than seconds. `probe knn` compares val and test with train, so its work grows with the square of the "
        "number of patches; above 50,000 training rows it imports PyTorch to multiply in bf16 on CPUs that support it. "
        "Forests on more than 20,000 rows draw 20,000 for each tree. `linear` may try more candidates than planned, "
        "because it extends its grid.",
        "",
        "| Step | Seconds | Share | CPU s | Peak MB | Disk MB | Load | Seconds / small | CPU / small | Peak / small |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        share = "" if row["step"] == "tree" else f"{row['share']:.0%}"
        lines.append(
            f"| {row['step']} | {row['seconds']:,.0f} | {share} | {row['cpu_s']:,.0f} | {row['peak_mb']:,.0f} | "
            f"{row['disk_mb']:,.0f} | {row['load_before']:.0f} | {row['seconds x']:.1f} | {row['cpu_s x']:.1f} | "
            f"{row['peak_mb x']:.1f} |"
        )
    long = [row["step"] for row in rows if row["step"] != "tree" and row["share"] > 0.095]
    lines += ["", "Steps that take about a tenth of the time or more: "]
    lines[-1] += "; ".join(f"`{name}`, {BOUNDS.get(name, 'not examined')}" for name in long) + "."
    lines += ["", "Views that have nothing to show here, with their messages:", ""]
    lines += [
        f"- `{row['step']}`: {re.sub(r'/[^ ;]+/out', 'OUT', row['refused'])}"
        for row in rows
        if isinstance(row.get("refused"), str)
    ]
    lines += [
        "",
        "| Probe | Final fit, s | Search, s | Total, s | Candidates | Chosen | mAP macro | F2 macro, tuned |",
    ]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |"]
    for kind, run in [row["runs"] for row in rows if isinstance(row["runs"], dict)][-1].items():
        seconds, chosen = run["seconds"], " ".join(f"{name}={value}" for name, value in run["chosen"].items())
        lines.append(
            f"| {kind} | {seconds['fit']:,.0f} | {seconds['search']:,.0f} | {seconds['total']:,.0f} | {run['tried']} | "
            f"{chosen} | {run['map_macro']:.3f} | {run['f2_macro_tuned']:.3f} |"
        )
    if rcf:
        lines += ["", f"## Random convolutional features, {SMALL:,} patches", ""]
        lines += ["| Step | Seconds | CPU s | Peak MB | Disk MB |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rcf:
        figures = f"{row['seconds']:,.0f} | {row['cpu_s']:,.0f} | {row['peak_mb']:,.0f} | {row['disk_mb']:,.0f}"
        lines.append(f"| {row['step']} | {figures} |")
    return "\n".join(lines) + "\n"
