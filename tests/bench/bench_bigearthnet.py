"""BigEarthNet: opening its metadata, reading its patches, and the memory that a run takes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from tests.bench.pairs import PROJECT, SHARED, paired
from tests.opening import open_split

TOOL = SHARED / "tools" / "mosaic_bigearthnet.py"
SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
BATCH = 64
DIFFERENT = 100  # patches; the others are these under other names
# Prints the seconds on the clock and of work, the most memory (kB) of the process, imports and all, and `call`'s value.
MEASURED = """
import json, time
from pathlib import Path
{imports}
start, worked = time.perf_counter(), time.process_time()
value = {call}
seconds = [time.perf_counter() - start, time.process_time() - worked]
print(json.dumps([seconds, int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]), value]))
"""
# Runs a command and prints the most memory (kB) that it, or a process it started, had.
WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
OURS = """
import numpy as np
from data.dataset import SPLITS
from data.sources._bigearthnet_patches import locations, read_metadata

def index(root):
    splits = read_metadata(root, SPLITS, ["S2", "S1"])
    places = [locations(patches.names["S2"]) for patches in splits.values()]
    return [patches.labels.sum(axis=0, dtype=int).tolist() for patches in splits.values()], list(map(len, places))
"""
PEER = """
from torchgeo.datasets import BigEarthNetV2

def index(root):
    return list(map(len, [BigEarthNetV2(root, split=split) for split in ("train", "val", "test")]))
"""


@contextmanager
def patches(count: int, place: Callable[..., Any]) -> Iterator[Path]:
    """A folder of patches of 12 bands in BigEarthNet v2's layout and format, all of the training split.

    Their pixels are real where the shared data are at hand, and random elsewhere.

    Args:
        count: how many.
        place: makes one file of another: ``shutil.copy`` or ``os.link``.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        if TOOL.exists():
            archive = SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip"
            command = [sys.executable, TOOL, "--zip", archive, "--out", folder / "few", "--count", str(DIFFERENT)]
            subprocess.run(command, check=True, capture_output=True)
        else:
            make(folder / "few")
        repeat(folder / "few", folder / "many", count, place)
        yield folder / "many"
    finally:
        shutil.rmtree(folder)


def make(root: Path) -> None:
    """Patches of random pixels."""
    from data.nomenclature import CLASSES_19
    from data.sources._bigearthnet_patches import BANDS, FLAGS
    from data.sources.bigearthnet import SIDES

    rng, rows = np.random.default_rng(0), []
    for number in range(DIFFERENT):
        name = f"{SCENE}_0_{number}"
        sides = {f"BigEarthNet-S2/{{}}_{band.name}": SIDES[band.gsd_m] for band in BANDS if band.sensor == "S2"}
        for form, side in (sides | {"Reference_Maps/{}_reference_map": 120}).items():
            kind, _, file = form.partition("/")
            target = root / kind / SCENE / name / f"{file.format(name)}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            corner = from_origin(300_000 + 1200 * number, 5_400_000, 1200 / side, 1200 / side)
            about = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16"}
            with rasterio.open(target, "w", **about, crs=CRS.from_epsg(32633), transform=corner) as tif:
                tif.write(rng.integers(100, 4000, (1, side, side), np.uint16))
        rows.append({"patch_id": name, "labels": [CLASSES_19[number % 19]], "split": "train", "s1_name": ""})
    pq.write_table(pa.Table.from_pylist([row | dict.fromkeys(FLAGS, False) for row in rows]), root / "metadata.parquet")


def repeat(few: Path, root: Path, count: int, place: Callable[..., Any]) -> None:
    """A training split of `count` patches out of a few, under other names."""
    rows, made = pq.read_table(few / "metadata.parquet").to_pylist(), []
    for number in range(count):
        row = rows[number % len(rows)]
        name = f"{SCENE}_{number // 100}_{number % 100}"
        for kind in ("BigEarthNet-S2", "Reference_Maps"):
            target = root / kind / SCENE / name
            target.mkdir(parents=True)
            for file in (few / kind / SCENE / row["patch_id"]).iterdir():
                place(file, target / file.name.replace(row["patch_id"], name))
        made.append(row | {"patch_id": name, "split": "train"})
    (root / "BigEarthNet-S1").mkdir()  # torchgeo wants it
    pq.write_table(pa.Table.from_pylist(made), root / "metadata.parquet")


def bench_bigearthnet_reading() -> dict:
    """Patches/s read as batches of 64, 12 bands, one process, page cache warm: ours against torchgeo's BigEarthNetV2.

    torchgeo also resamples to 120 pixels, which ours leaves to the device, and reads the reference map. `packed` is a
    packed file of the same patches, its checksums compared, against our reading of the files.
    """
    from torch.utils.data import DataLoader
    from torchgeo.datasets import BigEarthNetV2

    from data.packed import PackedSplit
    from data.packing import pack
    from data.sources import bigearthnet
    from featurize.reading import _read

    with patches(1000, shutil.copy) as folder:
        files = open_split(bigearthnet, "train", folder, bands=("s2-12",))
        pack(folder / "packed.h5", {"train": files}, files.bands, workers=0)
        packed = PackedSplit(folder / "packed.h5", "train")
        theirs = DataLoader(BigEarthNetV2(folder, split="train", bands="s2"), batch_size=BATCH)
        ranges = [(start, min(start + BATCH, len(files))) for start in range(0, len(files), BATCH)]

        def batches(source: Any) -> None:
            for rows in ranges:
                _read(source, files.bands, rows)

        result = paired(lambda: batches(files), lambda: list(theirs), len(files), "patches")
        result["packed"] = paired(lambda: batches(packed), lambda: batches(files), len(files), "patches")
        tifs = (folder / "BigEarthNet-S2").glob("*/*/*.tif")
        return result | {
            "patches": len(files),
            "pixels": "real" if TOOL.exists() else "random",
            "bytes_a_patch": {
                "files": round(sum(file.stat().st_size for file in tifs) / len(files)),
                "packed": round((folder / "packed.h5").stat().st_size / len(files)),
                "pixels": sum(band.nbytes for band in files.read(0, files.bands)),
            },
        }


def bench_bigearthnet_opening() -> dict:
    """Seconds to open and index all three splits of the real metadata, 480,038 patches, in a process of its own.

    Ours: labels, ids, both sensors' names, locations. Peer: the constructors of torchgeo's BigEarthNetV2.
    """
    root = SHARED / "data" / "bigearthnet-v2"
    if not root.is_dir():
        return {"skipped": "no real data; set EO_SHARED"}
    found: dict[str, list] = {}
    for name, imports in [("ours", OURS), ("peer", PEER)] * 3:
        command = [sys.executable, "-c", MEASURED.format(imports=imports, call=f"index(Path({str(root)!r}))")]
        done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
        found[name] = min(found.get(name, [[1e9]]), json.loads(done.stdout))
    (ours, ours_kb, (labels, counts)), (peer, peer_kb, peer_counts) = found["ours"], found["peer"]
    assert counts == peer_counts
    return {
        "unit": "s on the clock, and of work by all cores (least of 3)",
        "ours": round(ours[0], 2),
        "peer": round(peer[0], 2),
        "ours_work": round(ours[1], 2),
        "peer_work": round(peer[1], 2),
        "ours_peak_mb": round(ours_kb / 1000),
        "peer_peak_mb": round(peer_kb / 1000),
        "patches": counts,
        "labels_of_each_class": labels,
    }


def bench_bigearthnet_memory() -> dict:
    """Most memory (MB) of any process of `featurize --model stats` over 1,000 patches and 20,000: 12 bands, 2 readers.

    The patches are hard links to 100 different ones: the same reading, without 3 GB on disk.
    """
    found = {}
    for count in (1000, 20_000):
        with patches(count, os.link) as root:
            command = [sys.executable, "-m", "featurize", "--model", "stats", "--dataset", "bigearthnet"]
            command += ["--data-root", str(root), "--split", "train", "--image-size", "30", "--workers", "2"]
            command += ["--out", str(root / "runs"), "--device", "cpu"]
            watched = [sys.executable, "-c", WATCHED, *command]
            done = subprocess.run(watched, cwd=PROJECT, check=True, capture_output=True, text=True)
            found[count] = round(int(done.stdout) / 1000)
    ratio = round(found[20_000] / found[1000], 2)
    return {"unit": "MB", "patches_1000": found[1000], "patches_20000": found[20_000], "ratio": ratio}
