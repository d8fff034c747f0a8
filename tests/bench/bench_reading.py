"""Reading: feature files and images, against a plain layout and torchgeo's readers."""

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np

from tests.bench.pairs import SHARED, paired
from tests.opening import open_split


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


def bench_eurosat_reading() -> dict:
    """Patches/s reading real 13-band EuroSAT tiles in one process, page cache warm: against torchgeo's EuroSAT."""
    from torchgeo.datasets import EuroSAT

    from data.sources import eurosat

    root = SHARED / "data" / "eurosat-ms"
    if not root.is_dir():
        return {"skipped": "no real data; set EO_SHARED"}
    folder = Path(tempfile.mkdtemp())
    try:
        for file in root.iterdir():
            shutil.copy(file, folder)
        theirs = EuroSAT(folder, split="train")
        ours = open_split(eurosat, "train", folder, cache_dir=folder / "cache")
        return paired(
            lambda: [ours.read(i, ours.bands) for i in range(len(ours))],
            lambda: [theirs[i] for i in range(len(theirs))],
            len(ours),
            "patches",
        )
    finally:
        shutil.rmtree(folder)
