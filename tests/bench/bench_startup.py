"""Small jobs: from the command to its end, where imports, threads and checks weigh more than the work.

Beside another checkout with its own .venv, in turns, where BEFORE names its folder:

    BEFORE=../before python -m tests.bench --only startup
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.bench import known_signal
from tests.bench.pairs import PROJECT

ROUNDS = int(os.environ.get("ROUNDS", "5"))
# Every model with weights that need no download, in its smallest form.
MODELS = {
    "stats": "", "rcf": "--image-size 24 --bands rgb", 
    "galileo": "--weights random --variant nano", "dinov2": "--weights random --variant small --image-size 56",
    "dofa": "--weights random --variant small", "croma": "--weights random --image-size 40 --bands s2-12",
    "resnet": "--weights random --variant sentinel2-rgb-moco-18 --image-size 64",
    "swin": "--weights random --variant tiny-s2 --image-size 64",
    "dinov3": "--weights random --variant small --image-size 64",
}  # fmt: skip
ROWS = {"train": 1000, "validation": 300, "test": 300}


def bench_startup() -> dict:
    """Wall-clock and CPU seconds, medians of five, of `featurize` of one image by model, of `probe` on 1,000 x 768
    features and of `analyze table` of one run: this checkout and, where BEFORE names one, another in turns."""
    checkouts = {"now": PROJECT} | ({"before": Path(before)} if (before := os.environ.get("BEFORE")) else {})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_features(root)
        jobs = {f"first image, {name}": first_image(name, words) for name, words in MODELS.items()}
        jobs |= {f"probe --kind {kind}": probe(root, kind) for kind in ("linear", "knn")}
        jobs["analyze table"] = ["analysis", "table", "--out", "{out}"]
        if only := os.environ.get("STARTUP_ONLY"):
            jobs = {name: words for name, words in jobs.items() if any(one.strip() in name for one in only.split(","))}
        table = {}
        for name, words in jobs.items():
            table[name] = compared(words, checkouts, root)
            print(name, table[name], flush=True)
    return {"rounds": ROUNDS, "jobs": table}


def first_image(name: str, words: str) -> list[str]:
    """The command that embeds one image."""
    where = "--dataset simulated --split test --limit 1 --workers 0 --overwrite --out {out}"
    return ["featurize", "--model", name, *words.split(), *where.split()]


def probe(root: Path, kind: str) -> list[str]:
    """The command that fits one probe."""
    return ["probes", "--kind", kind, "--features", str(root / "features"), "--overwrite", "--out", "{out}"]


def write_features(root: Path) -> None:
    """1,000 x 768 features with a known signal in ten classes."""
    rng, tables = np.random.default_rng(0), []
    for split, rows in ROWS.items():
        labels = [sorted({f"class {k}" for k in rng.integers(0, 10, 2)}) for _ in range(rows)]
        ids = [f"{split}-{row}" for row in range(rows)]
        tables.append(pd.DataFrame({"patch_id": ids, "labels": labels, "split": split}))
    pd.concat(tables).to_parquet(root / "metadata.parquet")
    known_signal.write(root / "features", root / "metadata.parquet")


def compared(words: Sequence[str], checkouts: dict[str, Path], root: Path) -> dict:
    """Medians of one command in every checkout, in turns; a first round does not count.

    Another checkout that cannot run the command, such as one without the model, has no figures.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    for number in range(ROUNDS + 1):
        for name in list(found):
            try:
                took = timed(words, checkouts[name], root / name)
            except RuntimeError:
                if name == "now" or number:
                    raise
                del found[name]
                continue
            if number:
                found[name].append(took)
    medians = {
        name: {"wall_s": round(statistics.median(wall), 2), "cpu_s": round(statistics.median(cpu), 2)}
        for name, (wall, cpu) in ((name, zip(*times, strict=True)) for name, times in found.items())
    }
    return medians["now"] if len(medians) == 1 else medians


def timed(words: Sequence[str], checkout: Path, out: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one command, its children included."""
    python = sys.executable if checkout == PROJECT else str(checkout / ".venv/bin/python")
    command = [python, "-m", *(str(out) if word == "{out}" else word for word in words)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
