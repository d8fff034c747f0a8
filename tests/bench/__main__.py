"""Benchmarks: each measures ours beside a peer or a plain baseline in one run, and keeps both and their ratio.

make bench          all of them, to tests/bench/results/<machine>.json
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import torch

PROJECT = Path(__file__).parent.parent.parent
SHARED = Path(os.environ.get("EO_SHARED", PROJECT.parent / "shared"))
REPEATS = 5


def paired(ours: Callable[[], object], peer: Callable[[], object], count: int, unit: str) -> dict:
    """Run both in turn after one warm-up each; medians of the rates, and the median of the paired ratios."""
    ours(), peer()
    pairs = []
    for _ in range(REPEATS):
        pairs.append([count / seconds(ours), count / seconds(peer)])
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "unit": f"{unit}/s",
        "ours": round(statistics.median(mine for mine, _ in pairs), 1),
        "peer": round(statistics.median(theirs for _, theirs in pairs), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench_feature_reading() -> dict:
    """Rows/s reading 50,000 x 768 float16: our chunks of 1,024 rows against one chunk a row."""
    rows, dim = 50_000, 768
    values = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float16)
    folder = Path(tempfile.mkdtemp())
    try:
        for name, chunk in (("ours", 1024), ("peer", 1)):
            with h5py.File(folder / name, "w") as file:
                file.create_dataset("features", data=values, chunks=(chunk, dim), fletcher32=True)

        def read(name: str) -> None:
            with h5py.File(folder / name) as file:
                file["features"][:]

        return paired(lambda: read("ours"), lambda: read("peer"), rows, "rows")
    finally:
        shutil.rmtree(folder)


def bench_rcf_forward() -> dict:
    """Images/s of rcf, 64 images of 64 x 64 RGB, 512 filters: passes that fit the cache against torchgeo's forward."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from pixels import PixelDataset

    from featurize.encoder import EncoderRequest, build_encoder

    dataset = PixelDataset()
    request = EncoderRequest((), dataset.statistics, lambda: dataset, "gaussian")
    encoder = build_encoder("rcf", dataset, "rgb", request)
    images = torch.randn(64, 3, 64, 64)
    with torch.inference_mode():
        return paired(lambda: encoder.embed(images, None), lambda: encoder.filters(images), 64, "images")  # type: ignore


def bench_eurosat_reading() -> dict:
    """Patches/s reading real 13-band EuroSAT tiles in one process, page cache warm: against torchgeo's EuroSAT."""
    from torchgeo.datasets import EuroSAT

    from data.dataset import DatasetRequest
    from data.sources.eurosat import open_dataset

    root = SHARED / "data" / "eurosat-ms"
    if not root.is_dir():
        return {"skipped": "no real data; set EO_SHARED"}
    folder = Path(tempfile.mkdtemp())
    try:
        for file in root.iterdir():
            shutil.copy(file, folder)
        theirs = EuroSAT(folder, split="train")
        ours = open_dataset(DatasetRequest("train", folder, folder / "cache"))
        return paired(
            lambda: [ours.read(i, ours.bands) for i in range(len(ours))],
            lambda: [theirs[i] for i in range(len(theirs))],
            len(ours),
            "patches",
        )
    finally:
        shutil.rmtree(folder)


def bench_help_page() -> dict:
    """Help pages a second: from the cache against made anew by the command-line library."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        cached = [sys.executable, "-m", "featurize", "--help"]
        anew = [sys.executable, "-c", "from featurize.cli import app; app.help_print([])"]

        def run(command: list[str]) -> None:
            subprocess.run(command, env=environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)

        return paired(lambda: run(cached), lambda: run(anew), 1, "pages")


def main() -> None:
    """Run every benchmark and keep the figures with the facts of the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT / "tests" / "bench" / "results")
    parser.add_argument("--only", help="name of one benchmark, without bench_")
    arguments = parser.parse_args()
    results = {}
    for name, function in sorted(globals().items()):
        if name.startswith("bench_") and arguments.only in (None, name.removeprefix("bench_")):
            results[name.removeprefix("bench_")] = {"what": function.__doc__, **function()}
            print(json.dumps({name: results[name.removeprefix("bench_")]}, indent=1), flush=True)
    facts = {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "torchgeo", "h5py", "numpy")},
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "date": datetime.now(UTC).date().isoformat(),
    }
    if not arguments.only:
        arguments.out.mkdir(parents=True, exist_ok=True)
        target = arguments.out / f"{facts['gpu'] or 'cpu'}-{facts['cores']}-cores.json".replace(" ", "-").lower()
        target.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
