"""BigEarthNet: opening its metadata, reading its patches, and the memory that a run takes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.pairs import PROJECT, SHARED, paired

TOOL = SHARED / "tools" / "mosaic_bigearthnet.py"
NO_DATA = {"skipped": "no real data; set EO_SHARED"}
# Prints the seconds of `call` and the most memory (kB) that the process had, imports and all.
MEASURED = """
import json, time
from pathlib import Path
{imports}
start = time.perf_counter()
{call}
seconds = time.perf_counter() - start
print(json.dumps([seconds, int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])]))
"""
# Runs a command and prints the most memory (kB) that it, or a process it started, had.
WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@contextmanager
def mosaics(count: int) -> Iterator[Path]:
    """A folder of patches of real pixels in BigEarthNet v2's layout."""
    folder = Path(tempfile.mkdtemp())
    try:
        archive = SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip"
        command = [sys.executable, TOOL, "--zip", archive, "--out", folder, "--count", str(count)]
        subprocess.run(command, check=True, capture_output=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def bench_bigearthnet_reading() -> dict:
    """Patches/s reading 12 bands of 1,000 patches in one process, page cache warm: against torchgeo's BigEarthNetV2.

    torchgeo also resamples to 120 pixels, which ours leaves to the device, and reads the reference map.
    """
    from torchgeo.datasets import BigEarthNetV2

    from data.dataset import SPLITS, DatasetRequest
    from data.sources.bigearthnet import open_dataset

    if not TOOL.exists():
        return NO_DATA
    with mosaics(1000) as folder:
        ours = [open_dataset(DatasetRequest(split, folder, bands=("s2-12",))) for split in SPLITS]
        theirs = [BigEarthNetV2(folder, split=split, bands="s2") for split in SPLITS]
        count = sum(map(len, ours))
        result = paired(
            lambda: [split.read(i, split.bands) for split in ours for i in range(len(split))],
            lambda: [split[i] for split in theirs for i in range(len(split))],
            count,
            "patches",
        )
        files = list((folder / "BigEarthNet-S2").glob("*/*/*.tif"))
        values = sum(pixels.nbytes for pixels in ours[0].read(0, ours[0].bands))
        size = sum(file.stat().st_size for file in files) / count
        return result | {"patches": count, "bytes_a_patch": round(size), "pixel_bytes_a_patch": values}


def bench_bigearthnet_opening() -> dict:
    """Seconds to open the training split of the real metadata, 480,038 patches, each looked for in its scene's folder.

    Ours: labels, ids, both sensors' names, locations, existence. Peer: the constructor of torchgeo's BigEarthNetV2.
    """
    root = SHARED / "data" / "bigearthnet-v2"
    if not root.is_dir():
        return NO_DATA
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copy(root / "metadata.parquet", folder)
        (folder / "Reference_Maps").mkdir()
        names = pq.read_table(root / "metadata.parquet", columns=["patch_id", "s1_name"])
        for column, sensor, ends in (("patch_id", "S2", 2), ("s1_name", "S1", 3)):
            (patch,) = (root / f"BigEarthNet-{sensor}").glob("*/*")
            for name in names[column].to_pylist():
                link = folder / f"BigEarthNet-{sensor}" / name.rsplit("_", ends)[0] / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(patch.resolve())
        calls = {
            "ours": (
                "from data.dataset import DatasetRequest\nfrom data.sources.bigearthnet import open_dataset",
                f"assert len(open_dataset(DatasetRequest('train', Path({str(folder)!r})))) == 237871",
            ),
            "peer": (
                "from torchgeo.datasets import BigEarthNetV2",
                f"assert len(BigEarthNetV2({str(folder)!r}, split='train')) == 237871",
            ),
        }
        found: dict[str, list[float]] = {}
        for name, (imports, call) in [*calls.items()] * 3:
            command = [sys.executable, "-c", MEASURED.format(imports=imports, call=call)]
            done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout)
            found[name] = min(found.get(name, measured), measured)
        (ours, ours_kb), (peer, peer_kb) = found["ours"], found["peer"]
        return {
            "unit": "s (least of 3)",
            "ours": round(ours, 2),
            "peer": round(peer, 2),
            "ours_peak_mb": round(ours_kb / 1000),
            "peer_peak_mb": round(peer_kb / 1000),
        }
    finally:
        shutil.rmtree(folder)


def bench_bigearthnet_memory() -> dict:
    """Most memory (MB) of `featurize --model stats` over 1,000 patches and over 20,000, with two reader processes."""
    if not TOOL.exists():
        return NO_DATA
    with mosaics(200) as folder:
        rows = pq.read_table(folder / "metadata.parquet").to_pylist()
        found = {}
        for count in (1000, 20_000):
            root = folder / str(count)
            repeat(rows, folder, root, count)
            command = [sys.executable, "-m", "featurize", "--model", "stats", "--dataset", "bigearthnet"]
            command += ["--data-root", str(root), "--split", "train", "--image-size", "30", "--workers", "2"]
            command += ["--out", str(root / "runs"), "--device", "cpu"]
            watched = [sys.executable, "-c", WATCHED, *command]
            done = subprocess.run(watched, cwd=PROJECT, check=True, capture_output=True, text=True)
            found[count] = round(int(done.stdout) / 1000)
        return {
            "unit": "MB",
            "patches_1000": found[1000],
            "patches_20000": found[20_000],
            "ratio": round(found[20_000] / found[1000], 2),
        }


def repeat(rows: list[dict], folder: Path, root: Path, count: int) -> None:
    """Make a training split of `count` patches out of a few, by hard links under other names."""
    made = []
    for number in range(count):
        row = rows[number % len(rows)]
        scene = row["patch_id"].rsplit("_", 2)[0]
        name = f"{scene}_{number // 100}_{number % 100}"
        source = folder / "BigEarthNet-S2" / scene / row["patch_id"]
        target = root / "BigEarthNet-S2" / scene / name
        target.mkdir(parents=True)
        for file in os.listdir(source):
            os.link(source / file, target / file.replace(row["patch_id"], name))
        made.append(row | {"patch_id": name, "split": "train"})
    pq.write_table(pa.Table.from_pylist(made), root / "metadata.parquet")
